#!/usr/bin/env bash
# Print the worst relative error of each function against mpmath: bash ci/accuracy.sh [--slow] [pytest's options]
# --slow makes the sweeps fifty times longer.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install test
exec "$BIN/python" -m pytest --quiet tests/test_reference.py tests/test_accuracy.py "$@"
