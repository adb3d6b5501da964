#!/usr/bin/env bash
# Threads, processes, interrupts and disks, all that the tests know: bash ci/concurrency.sh [pytest's options]
# 32 threads on every threading layer, fork, forkserver and spawn, other libraries' workers, Ctrl-C in calls, changes and
# compilations, caches that are shared, edited under, full and read-only (mounting needs root). Half an hour.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install test peers
export LD_LIBRARY_PATH="$PWD/$VENV/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"  # where the peers brought TBB
exec "$BIN/python" -m pytest --slow tests/test_concurrency.py tests/test_interrupts.py tests/test_threads.py \
  tests/test_kernels.py tests/test_start.py "$@"
