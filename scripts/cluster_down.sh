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

# of CLUSTER PROGRAM...: ids of the processes of these programs (15 letters of their names) that belong to a cluster.
of() {
    local cluster=$1 program comm
    shift
    for program in "$@"; do
        for comm in $(grep -lsx "$program" /proc/[0-9]*/comm); do
            if grep -qsa "$cluster" "${comm%comm}cmdline"; then basename "${comm%/comm}"; fi
        done
    done
}

# A cluster's keeper cleans up, unless it was killed too. Then the node has ended with it, the servers were asked to, and files
# are left.
for cluster in "$folder"/plumbline-cluster-*; do
    [ -d "$cluster" ] || continue
    name=$(basename "$cluster")
    if [ -n "$(of "$name" cluster_keeper)" ]; then
        fail "$cluster is in use by another program than \`make cluster-up\`; end that first"
    fi
    for pid in $(of "$name" etcd kube-apiserver kube-controller kube-scheduler); do kill -9 "$pid"; done
    awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts | while read -r hierarchy; do
        if [ -d "$hierarchy/$name" ]; then find "$hierarchy/$name" -depth -type d -exec rmdir {} +; fi
    done
    rm -rf "$cluster"
done
rm -rf "$folder"
