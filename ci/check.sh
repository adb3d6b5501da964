#!/usr/bin/env bash
# Check the style and the rules of the code without running it: bash ci/check.sh
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh" || exit

install test || exit

status=0
check() {
  echo "== $*"
  "$BIN/$@" || status=1
}
check ruff check .
check ruff format --check .
check mypy
check lint-imports
check python -m pytest --quiet tests/test_policies.py
exit $status
