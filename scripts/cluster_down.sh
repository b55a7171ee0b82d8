#!/usr/bin/env bash
# Ends the cluster that cluster_up.sh has started, and removes what is left of one that was killed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

folder=$CACHE/node
[ -d "$folder" ] || exit 0
pid=$(cat "$folder/pid" 2>/dev/null || true)
if is_running "$pid" local_cluster; then
    kill "$pid" 2>/dev/null || true
    # It takes seconds. What it leaves when it has to be killed, its keeper removes.
    if ! until_not 60 is_running "$pid" local_cluster; then
        say "note: process $pid does not exit by itself; killing it"
        kill -9 "$pid" 2>/dev/null || true
        until_not 10 is_running "$pid" local_cluster || fail "process $pid cannot be ended; see $folder/log"
    fi
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
    is_kept() { [ -n "$(of "$name" cluster_keeper)" ]; }
    until_not 15 is_kept || fail "$cluster is in use by another program than \`make cluster-up\`; end that first"
    # They may end on their own meanwhile.
    for pid in $(of "$name" etcd kube-apiserver kube-controller kube-scheduler); do kill -9 "$pid" 2>/dev/null || true; done
    awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts | while read -r hierarchy; do
        if [ -d "$hierarchy/$name" ]; then find "$hierarchy/$name" -depth -type d -exec rmdir {} +; fi
    done
    rm -rf "$cluster"
done
rm -rf "$folder"
