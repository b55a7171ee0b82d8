#!/usr/bin/env bash
# One node, in namespaces of its own: what it mounts, routes and starts is gone with them, however it ends.
# Usage: node.sh FOLDER PROGRAMS
#   FOLDER    FOLDER/var is the node's /var; its control groups are called as FOLDER is
#   PROGRAMS  has kubelet, kube-proxy, coredns and pause.tar
# The servers of the cluster stay outside and meet it on a pair of interfaces: plumb0 there, eth0 here.
set -euo pipefail

folder=$1 programs=$2 step=${3:-outside}
cgroup=$(basename "$folder")
host=10.213.0.1 node=10.213.0.2 pods=10.214.0.0/16
configuration=/var/lib/node

case $step in
outside)
    exec unshare --net "$0" "$folder" "$programs" network
    ;;

network)
    # Whoever started this is still outside.
    outside=(nsenter --target "$PPID" --net ip)
    if "${outside[@]}" link show plumb0 >/dev/null 2>&1; then
        echo "there is an interface plumb0: another node is up, or something else has that name" >&2
        exit 1
    fi
    ip link add eth0 type veth peer name plumb0 netns "$PPID"
    ip address add "$node/30" dev eth0
    ip link set eth0 up
    ip link set lo up
    echo 1 >/proc/sys/net/ipv4/ip_forward
    "${outside[@]}" address add "$host/30" dev plumb0
    "${outside[@]}" link set plumb0 up
    "${outside[@]}" route add "$pods" via "$node"
    # Killed, this process takes the first of the new process namespace with it, and that one all others.
    exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc \
        "$0" "$folder" "$programs" node
    ;;

node)
    # Containers see what the kubelet mounts later. Until /run is ours, mount must not write there.
    mount --no-mtab --make-rshared /
    mount --no-mtab -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /opt
    mount --bind "$programs" /srv
    mount --bind "$folder/var" /var
    # The kubelet sets these, which are the whole machine's: it sets copies.
    for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
        kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
        mkdir -p "/run/kernel/$(dirname "$name")"
        cat "/proc/sys/$name" >"/run/kernel/$name"
        mount --bind "/run/kernel/$name" "/proc/sys/$name"
    done
    # In every hierarchy of version 1, or in the one of version 2.
    awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts | while read -r hierarchy; do
        mkdir -p "$hierarchy/$cgroup"
    done

    containerd --config "$configuration/containerd.toml" >/var/log/containerd.log 2>&1 &
    until ctr --address "$configuration/containerd.sock" version >/dev/null 2>&1; do
        kill -0 $!
        sleep 0.1
    done
    ctr --address "$configuration/containerd.sock" --namespace k8s.io images import /srv/pause.tar
    until [ -s "$configuration/kube-proxy.kubeconfig" ]; do sleep 0.1; done
    /srv/kubelet --config="$configuration/kubelet.yaml" --kubeconfig="$configuration/kubelet.kubeconfig" \
        --hostname-override=node --node-ip="$node" --cgroup-root="/$cgroup" >/var/log/kubelet.log 2>&1 &
    /srv/kube-proxy --config="$configuration/kube-proxy.yaml" >/var/log/kube-proxy.log 2>&1 &
    /srv/coredns -conf "$configuration/Corefile" >/var/log/coredns.log 2>&1 &
    wait -n
    echo "a program of the node has ended; $folder/var/log tells which and why" >&2
    exit 1
    ;;
esac
