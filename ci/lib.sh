# Sourced by the other scripts: goes to the repository's root and gives `install`.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
VENV=.venv
BIN="$VENV/bin"

# install [EXTRA...]: make the virtual environment and install the package with these extras, where that is not done
# already. A stamp per extra holds the hash of what was installed from, so that a second run costs nothing.
install() {
  if [ ! -x "$BIN/python" ]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: set PYTHON=...")'
    "$PYTHON" -m venv "$VENV"
  fi
  local extra version wanted="" stale=""
  version="$("$BIN/python" -c 'import hashlib, sys
print(hashlib.sha256(open("pyproject.toml", "rb").read() + sys.version.encode()).hexdigest())')"
  for extra in base "$@"; do
    [ "$extra" = base ] || wanted="$wanted,$extra"
    [ "$(cat "$VENV/installed-$extra" 2>/dev/null)" = "$version" ] || stale=yes
  done
  [ -z "$stale" ] && return
  "$BIN/python" -m pip install --quiet --disable-pip-version-check --editable ".${wanted:+[${wanted#,}]}"
  for extra in base "$@"; do
    echo "$version" > "$VENV/installed-$extra"
  done
}
