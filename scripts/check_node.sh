#!/usr/bin/env bash
# Whether this machine can run a cluster with a node (install_node.sh, tests/go/kubernetes/node). It is tried, not guessed.
# Ends with 0 if so; with 3 and one line on standard output that says why not; with anything else if the check itself failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

cannot() {
    printf '%s\n' "$*"
    exit 3
}

[ "$(id -u)" -eq 0 ] || cannot "this user is not root, and a node makes namespaces, mounts and interfaces"

programs=(containerd ctr runc iptables /usr/lib/cni/bridge ip)
for program in "${programs[@]}"; do
    command -v "$program" >/dev/null || command -v apt-get >/dev/null ||
        cannot "$program is missing, and there is no apt-get to install it with"
done

# The namespaces of node.sh, and in them: mounts of our own, an overlay, and an interface.
# On the disk that a node would have: an overlay on top of another one cannot be made.
parent=$CACHE
[ -d "$parent" ] || parent=.
folder=$(mktemp -d "$(cd "$parent" && pwd -P)/check-node-XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder"/{low,up,work,merged}
try() { unshare --net --mount --pid --fork --mount-proc bash -euc "$1" bash "$folder" 2>&1; }
said=$(try true) || cannot "network, mount and process namespaces cannot be made here: ${said##*$'\n'}"
said=$(try 'mount --no-mtab --make-rshared / && mount --no-mtab -t tmpfs tmpfs /run') ||
    cannot "nothing can be mounted in a namespace here: ${said##*$'\n'}"
said=$(try 'mount --no-mtab -t overlay overlay -o "lowerdir=$1/low,upperdir=$1/up,workdir=$1/work" "$1/merged"') ||
    cannot "overlays, which containers are made of, cannot be mounted here: ${said##*$'\n'}"
if command -v ip >/dev/null; then
    said=$(try 'ip link add probe0 type veth peer name probe1 && ip link add bridge0 type bridge') ||
        cannot "interfaces cannot be made in a namespace here: ${said##*$'\n'}"
fi
if command -v iptables >/dev/null; then
    said=$(try 'iptables -t nat -A OUTPUT -m comment --comment probe -j RETURN') ||
        cannot "iptables has no table nat in a namespace here: ${said##*$'\n'}"
fi

hierarchies=$(awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts)
[ -n "$hierarchies" ] || cannot "no control groups are mounted here"
for hierarchy in $hierarchies; do
    # Not a name that tests have.
    mkdir "$hierarchy/plumbline-check-$$" 2>/dev/null || cannot "control groups cannot be made in $hierarchy"
    rmdir "$hierarchy/plumbline-check-$$"
done
