#!/usr/bin/env bash
# Run the tests: bash ci/test.sh [--peers] [pytest's options and paths]
# --peers also installs torch, jax, scikit-learn, XGBoost, LightGBM, pandas, polars and TBB: nothing is then skipped.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

extras=(test)
if [ "${1:-}" = --peers ]; then
  extras+=(peers)
  shift
fi
install "${extras[@]}"

# Where the peers brought TBB, Numba can load it, for the tests that ask for it; the others run on the usual layer.
export LD_LIBRARY_PATH="$PWD/$VENV/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export NUMBA_THREADING_LAYER_PRIORITY="omp tbb workqueue"

paths=(tests fastxent)
for argument in "$@"; do
  if [ -e "${argument%%::*}" ]; then
    paths=()
  fi
done
# Two files of tests at a time: most of their time goes into compiling. Tests of time itself, among the slow ones, want
# the machine for themselves.
workers=(-n 2 --dist loadfile --no-loadscope-reorder) # in the files' order: by default the longest ones come last
[[ " $* " == *" --slow "* ]] && workers=()
exec "$BIN/python" -m pytest --doctest-modules --doctest-ignore-import-errors ${workers[@]+"${workers[@]}"} ${paths[@]+"${paths[@]}"} "$@"
