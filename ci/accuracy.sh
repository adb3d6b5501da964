#!/usr/bin/env bash
# Measure the errors of every function: bash ci/accuracy.sh [--quick] [--folder F] [--workers N] [--record] [NAME...]
# Functions of one float32 over every float32, of one float64 over 10^8; functions of rows by climbing to the worst ones;
# each beside NumPy, SciPy, torch and jax. Tables go to the folder (build/accuracy), and what is done is kept there, so
# that a run that was interrupted goes on. --quick: samples, some minutes. --record: what the tests and the README hold.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install test peers
PYTHONPATH="$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" exec "$BIN/python" -m dossier "$@"
