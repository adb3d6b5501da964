#!/usr/bin/env bash
# Measure the errors of every function: bash ci/accuracy.sh [--quick] [--folder F] [--workers N] [NAME...]
# Whole: functions of one float32 over every float32, the others over 10^8 float64 numbers. What is done is kept in the
# folder (build/accuracy), so that a run that was interrupted goes on. --quick: samples, a minute.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install test peers
PYTHONPATH="$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" exec "$BIN/python" -m dossier "$@"
