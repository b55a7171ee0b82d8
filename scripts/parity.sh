#!/usr/bin/env bash
# Compares with transformers. Usage: parity.sh TRAINER MODEL_DIR
set -euo pipefail
trainer=$(realpath "$1") model=$(realpath "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

requirements=scripts/requirements/parity.txt
python=$CACHE/parity/bin/python
if ! is_done parity "$requirements" || [ ! -x "$python" ]; then
    say "parity: installing transformers and the whole of torch into $CACHE/parity (5 GB, a few minutes)"
    rm -rf "$CACHE/parity"
    python3 -m venv "$CACHE/parity"
    "$python" -m pip --disable-pip-version-check --no-input install --quiet --requirement "$requirements"
    mark_done parity "$requirements"
fi
python=$(realpath --no-symlinks "$python")
# The model is a folder here; nothing may be fetched in its place.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error PYTHONDONTWRITEBYTECODE=1
cd tests/parity
"$python" check_encodings.py "$trainer"
"$python" golden_tokens.py "$model"
"$python" golden_logits.py "$model"
"$python" inspect_texts.py "$trainer" "$model"
