#!/usr/bin/env bash
# Starts a Kubernetes with one node on this machine, as root. cluster_down.sh ends it; nothing of it is left then.
# .cache/node/kubeconfig is there when it is ready, and .cache/node/{models,results} are the claims of the namespace default.
# The images that build_images.sh has made are on it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

folder=$CACHE/node
if [ -e "$folder/kubeconfig" ] && is_running "$(cat "$folder/pid" 2>/dev/null || true)" local_cluster; then
    say "cluster: up already; export KUBECONFIG=$PWD/$folder/kubeconfig"
    exit 0
fi
[ "$(id -u)" -eq 0 ] || fail "a node makes namespaces, mounts and interfaces, which takes root: sudo make cluster-up"
scripts/cluster_down.sh
cargo build --release --locked --workspace --bins

mkdir -p "$folder"
images=()
for image in operator trainer; do
    if [ -f "$CACHE/images/$image.tar" ]; then images+=("$CACHE/images/$image.tar"); fi
done
# In a session of its own, Ctrl-C in this terminal does not end it.
RUST_BACKTRACE=0 setsid "${CARGO_TARGET_DIR:-target}/release/local_cluster" "$folder" "${images[@]}" >"$folder/log" 2>&1 </dev/null &
echo $! >"$folder/pid"
until [ -e "$folder/kubeconfig" ]; do
    kill -0 "$(cat "$folder/pid")" 2>/dev/null || fail "the cluster has ended: $(tail -n 25 "$folder/log")"
    sleep 0.2
done
say "cluster: up; export KUBECONFIG=$PWD/$folder/kubeconfig"
