#!/usr/bin/env bash
# Compares with transformers, PEFT and TRL. Usage: parity.sh TRAINER MODEL_DIR
# PARITY_VENV: a Python environment that holds what requirements/parity.txt asks for. Default: one made in .cache.
set -euo pipefail
trainer=$(realpath "$1") model=$(realpath "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

requirements=scripts/requirements/parity.txt
venv=${PARITY_VENV:-$CACHE/parity}
lock_cache
if [ -z "${PARITY_VENV:-}" ] && { ! is_done parity "$requirements" || [ ! -x "$venv/bin/python" ]; }; then
    say "parity: installing transformers and the whole of torch into $venv (5 GB, a few minutes)"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --requirement "$requirements"
    mark_done parity "$requirements"
fi
[ -x "$venv/bin/python" ] || fail "PARITY_VENV: there is no $venv/bin/python"
python=$(realpath --no-symlinks "$venv/bin/python")
trl=$CACHE/trl
# TRL's environment reads the other one too: torch is 5 GB, and one version of it is compared with.
share_packages() {
    local site='import sysconfig; print(sysconfig.get_path("purelib"))'
    "$python" -c "$site" >"$("$trl/bin/python" -c "$site")/parity.pth"
}
if ! is_done trl scripts/requirements/trl.txt "$requirements" || [ ! -x "$trl/bin/python" ]; then
    say "parity: installing TRL into $trl (300 MB, a minute)"
    rm -rf "$trl"
    python3 -m venv "$trl"
    share_packages
    "$trl/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --requirement scripts/requirements/trl.txt
    mark_done trl scripts/requirements/trl.txt "$requirements"
fi
share_packages
trl=$(realpath --no-symlinks "$trl/bin/python")
scripts/fetch_qwen3_tokenizer.sh
unlock_cache
qwen3=$(realpath "$CACHE/qwen3-tokenizer")
cargo build --release --locked --quiet --package plumbline-feedback --example tokenize
tokenize=$(realpath "${CARGO_TARGET_DIR:-target}/release/examples/tokenize")
# The model is a folder here; nothing may be fetched in its place.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error PYTHONDONTWRITEBYTECODE=1
cd tests/parity
"$python" check_encodings.py "$trainer"
"$python" golden_families.py
"$python" check_families.py "$trainer"
"$python" check_qwen3_tokens.py "$tokenize" "$qwen3"
"$python" check_gguf_qwen.py "$trainer" "$tokenize" "$qwen3"
"$python" golden_tokens.py "$model"
"$python" golden_logits.py "$model"
"$python" golden_jinja.py "$model"
"$python" golden_sentencepiece.py ../fixtures/tiny
"$python" check_saved.py "$trainer" "$model"
"$python" check_tuned.py "$trainer" "$model"
"$trl" trl_dpo.py "$trainer"
"$trl" trl_reward.py "$trainer"
