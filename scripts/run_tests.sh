#!/usr/bin/env bash
# Runs all tests but those of a node, and lists all that fail. The cluster's tests wait most of the time and the trainer's
# compute: they run side by side, and what computes yields to what measures time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=1

failed=()
log=$(mktemp)
# A process group of its own: a shell's background jobs ignore Ctrl-C.
set -m
RUST_TEST_THREADS=$CLUSTER_THREADS cargo test --workspace --locked --test cluster >"$log" 2>&1 </dev/null &
cluster=$!
set +m
trap 'kill -INT -- "-$cluster" 2>/dev/null || true; rm -f "$log"' EXIT
RUST_TEST_THREADS=$TRAINER_THREADS nice cargo test --workspace --locked --no-fail-fast \
    --exclude plumbline-tests-cluster || failed+=("tests above this line")
wait "$cluster" || failed+=("tests of the cluster")
cat "$log"
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
