#!/usr/bin/env bash
# Run a part of the tests with the oldest and the newest of what is supported, warnings as errors: bash ci/matrix.sh [ROW...]
# A row is left out where its Python is not installed. Environments are made anew in .matrix/ and removed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# The floors of pyproject.toml, then the newest that pip finds. All but those of the package itself are the tests' own.
oldest="numba==0.64.0 numpy==2.0.0 narwhals==1.30.0 scipy==1.13.0 typer==0.16.0 rich==13.0.0 pyarrow==16.0.0"
newest="numba numpy narwhals scipy typer rich pyarrow"
rows=("oldest 3.10 $oldest" "newest-3.10 3.10 $newest" "newest-3.11 3.11 $newest" "newest-3.12 3.12 $newest" "newest-3.13 3.13 $newest")
tests=(tests/test_scoring.py tests/test_sums.py tests/test_semantics.py tests/test_files.py tests/test_cli.py)

status=0
for row in "${rows[@]}"; do
  read -r name version packages <<< "$row"
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  python="$(command -v "python$version")" && "$python" --version > /dev/null 2>&1 ||
    python="$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python 2> /dev/null | tail -1)"
  if [ -z "$python" ]; then
    echo "== $name: no Python $version here"
    continue
  fi
  folder=.matrix/$name
  rm -rf "$folder"
  "$python" -m venv "$folder"
  # shellcheck disable=SC2086
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check $packages pytest hypothesis mpmath || { status=1; continue; }
  echo "== $name: $("$folder/bin/python" -c 'import sys, numba, numpy, scipy
print("Python", sys.version.split()[0], "numba", numba.__version__, "numpy", numpy.__version__, "scipy", scipy.__version__)')"
  PYTHONPATH=. FASTXENT_CACHE_DIR="$folder/cache" "$folder/bin/python" -W error::DeprecationWarning:fastxent -m pytest --quiet -p no:cacheprovider "${tests[@]}" || status=1
  rm -rf "$folder"
done
exit $status
