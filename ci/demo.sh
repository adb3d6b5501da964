#!/usr/bin/env bash
# Score millions of real predictions: bash ci/demo.sh [options of fastxent demo]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install
exec "$BIN/fastxent" demo "$@"
