#!/usr/bin/env bash
# Builds the S3 server that tests start from source into .cache/cluster/bin. Its version and checksums are those of
# tests/store/go.mod and go.sum.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

definition=(scripts/install_store.sh tests/store/go.mod tests/store/go.sum)
program=$CACHE/cluster/bin/versitygw
if is_done store "${definition[@]}" && [ -x "$program" ]; then exit 0; fi

say "store: building the S3 server of the tests from source (2 minutes on two cores)"
mkdir -p "$CACHE/cluster/bin"
out=$(cd "$CACHE/cluster/bin" && pwd -P)
(cd tests/store && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$out/versitygw.partial" github.com/versity/versitygw/cmd/versitygw)
mv "$program.partial" "$program"
mark_done store "${definition[@]}"
