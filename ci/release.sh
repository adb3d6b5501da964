#!/usr/bin/env bash
# Build what is published, look at it, install it elsewhere and use it: bash ci/release.sh
# Leaves in dist/ the sdist, the wheel and sbom.json, the list of what an installation consists of (CycloneDX).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
quiet=(--quiet --disable-pip-version-check)

"$PYTHON" -m venv "$work/tools"
"$work/tools/bin/python" -m pip install "${quiet[@]}" build twine cyclonedx-bom
rm -rf dist
"$work/tools/bin/python" -m build --outdir dist . > "$work/build.log" || { cat "$work/build.log"; exit 1; }
"$work/tools/bin/twine" check --strict dist/*
largest="$(tar -tvzf dist/*.tar.gz | awk '{ print $3, $6 }' | sort -rn | head -1)"
echo "largest file of the sdist: $largest"
[ "${largest%% *}" -le 1000000 ] || { echo "over 1 MB" >&2; exit 1; }

for built in dist/*.whl dist/*.tar.gz; do
  rm -rf "$work/fresh"
  "$PYTHON" -m venv "$work/fresh"
  "$work/fresh/bin/python" -m pip install "${quiet[@]}" "$built"
  (
    cd "$work" # not where the sources are
    export FASTXENT_CACHE_DIR="$work/cache"
    fresh/bin/fastxent --version
    fresh/bin/python -W error -c 'import numpy as np
np.save("x.npy", np.log([[0.5, 0.5], [0.25, 0.75]]))
np.save("y.npy", [0, 1])'
    fresh/bin/fastxent score x.npy y.npy --json - | fresh/bin/python -c 'import json, sys
card = json.load(sys.stdin)
assert card["n"] == 2 and card["accuracy"] == 1.0, card
print("scored", card["n"], "rows: nll", card["nll"])'
  )
done
"$work/tools/bin/cyclonedx-py" environment "$work/fresh" --output-format JSON --output-file dist/sbom.json
"$PYTHON" -c 'import json
print("parts:", ", ".join(f"""{c["name"]} {c["version"]}""" for c in json.load(open("dist/sbom.json"))["components"]))'
