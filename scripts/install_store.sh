#!/usr/bin/env bash
# Builds the S3 server that tests start from source into .cache/cluster/bin. Its version and checksums are those of
# tests/go/store/go.mod and go.sum.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

definition=(scripts/install_store.sh tests/go/store/go.mod tests/go/store/go.sum)
program=$CACHE/cluster/bin/versitygw
if is_done store "${definition[@]}" && [ -x "$program" ]; then exit 0; fi

say "store: building the S3 server of the tests from source (2 minutes on two cores)"
build_go tests/go/store "$program" github.com/versity/versitygw/cmd/versitygw
mark_done store "${definition[@]}"
