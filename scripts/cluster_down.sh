#!/usr/bin/env bash
# Ends the cluster that cluster_up.sh has started, and removes what is left of one that was killed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

folder=$CACHE/node
[ -d "$folder" ] || exit 0
# A process id may be somebody else's by now.
pid=$(cat "$folder/pid" 2>/dev/null || true)
if [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null || true)" = local_cluster ]; then
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
fi

# The keeper of a cluster cleans up, unless it was killed too: then all its processes have ended with it, and files are left.
for cluster in "$folder"/plumbline-cluster-*; do
    [ -d "$cluster" ] || continue
    name=$(basename "$cluster")
    # The first letter in brackets: the pattern does not match itself.
    if grep -qsz "[p]${name#p}" /proc/[0-9]*/cmdline; then
        fail "$cluster is in use by another program than \`make cluster-up\`; end that first"
    fi
    awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts | while read -r hierarchy; do
        if [ -d "$hierarchy/$name" ]; then find "$hierarchy/$name" -depth -type d -exec rmdir {} +; fi
    done
    rm -rf "$cluster"
done
rm -rf "$folder"
