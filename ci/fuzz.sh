#!/usr/bin/env bash
# Fuzz the readers, score cards and the command line: bash ci/fuzz.sh [SECONDS of processor time, 3600 by default] [TARGET...]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install test
# Atheris has no wheels for some versions of Python: the inputs are mutated without its guidance then.
"$BIN/python" -c 'import atheris' 2>/dev/null ||
  "$BIN/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: atheris ||
  echo "without atheris: mutations are not guided by coverage" >&2
exec "$BIN/python" ci/fuzz.py "$@"
