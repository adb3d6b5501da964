#!/usr/bin/env bash
# Every function on memory between pages that must not be touched: bash ci/memory_safety.sh [small|full] [DTYPE ...]
# tests/guarded.py says how. First the code of this processor, then that of AVX2; then with the kernels' own arrays on
# the stack guarded as well; then with Numba's bounds checks, which see indexed arrays but not pointers; and under
# valgrind, where that is installed. "full" has every number of classes to 70 and of rows to 33, and takes hours; "small"
# (default) some minutes a step, mostly compiling.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install test
grid="${1:-small}"
shift || true
log="$(mktemp)"
status=0
tool=()
step() {  # step NAME [VARIABLE=VALUE ...] -- [OPTION ...]
  local name="$1" environment=()
  shift
  while [ "$1" != -- ]; do environment+=("$1"); shift; done
  shift
  echo "== $name"
  env GUARDED_LOG="$log" PYTHONPATH=. ${environment[@]+"${environment[@]}"} \
    ${tool[@]+"${tool[@]}"} "$BIN/python" tests/guarded_suite.py "$grid" "$@" || { status=1; echo "amid: $(cat "$log")"; }
}
step "this processor" -- "$@"
step "AVX2" NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES= -- "$@"
step "arrays on the stack" NUMBA_NUM_THREADS=1 FASTXENT_CACHE_DIR=/dev/null -- --stack "$@"
step "bounds checks" NUMBA_BOUNDSCHECK=1 -- "$@"
# valgrind knows no AVX-512, loses a NaN in a maximum and the sign of 0·-0 + 0, and takes 50 times as long: addresses only.
if command -v valgrind > /dev/null; then
  grid=small
  tool=(valgrind --quiet --error-exitcode=1 --undef-value-errors=no --smc-check=all-non-file --suppressions=ci/valgrind.supp)
  step "valgrind" NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES= NUMBA_NUM_THREADS=1 PYTHONMALLOC=malloc -- --plain "$@"
fi
rm "$log"
exit $status
