#!/usr/bin/env bash
# Run the tests: bash ci/test.sh [--peers] [pytest's options and paths]
# --peers also installs torch, jax, scikit-learn, XGBoost and LightGBM, so that no comparison with them is skipped.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

extras=(test)
if [ "${1:-}" = --peers ]; then
  extras+=(peers)
  shift
fi
install "${extras[@]}"

paths=(tests fastxent)
for argument in "$@"; do
  if [ -e "${argument%%::*}" ]; then
    paths=()
  fi
done
exec "$BIN/python" -m pytest --doctest-modules ${paths[@]+"${paths[@]}"} "$@"
