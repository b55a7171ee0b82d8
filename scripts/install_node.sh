#!/usr/bin/env bash
# Brings in what a cluster with a node has beside the control plane (install_cluster.sh): kubelet, scheduler, proxy and DNS
# server, built from source into .cache/cluster/node, the image of a pod's first process, and Debian's containerd.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

packages=(containerd runc containernetworking-plugins iptables iproute2)
needed=(containerd ctr runc iptables /usr/lib/cni/bridge ip)
missing=()
for program in "${needed[@]}"; do command -v "$program" >/dev/null || missing+=("$program"); done
if [ "${#missing[@]}" -gt 0 ]; then
    install="apt-get install --no-install-recommends ${packages[*]}"
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        fail "missing: ${missing[*]}; on Debian: $install"
    fi
    say "node: installing ${packages[*]} (60 MB to download)"
    # shellcheck disable=SC2086 # words of a command
    DEBIAN_FRONTEND=noninteractive $install --yes --quiet=2 >/dev/null
fi

# As in setup.sh: two in one shared folder take turns.
exec 9>"$CACHE/lock"
flock 9
definition=(scripts/install_node.sh tests/cluster/{go.mod,go.sum,dns/*,node/pause.c} images/oci.py)
out=$CACHE/cluster/node
if is_done node "${definition[@]}" && [ -d "$out" ]; then exit 0; fi

say "node: building kubelet, scheduler, proxy and DNS server from source into $out (3 minutes after \`make setup-tests\`)"
rm -rf "$out.partial"
mkdir -p "$out.partial"
build_kubernetes "$out.partial" kubelet kube-proxy kube-scheduler
build_go tests/cluster/dns "$out.partial/coredns" .
gcc -static -O2 -s -o "$out.partial/pause" tests/cluster/node/pause.c
PYTHONPATH=images PYTHONDONTWRITEBYTECODE=1 python3 - "$out.partial" <<'PYTHON'
import sys
from pathlib import Path

import oci

out = Path(sys.argv[1])
tree = oci.Tree()
tree.file("pause", out / "pause", 0o755)
layer = oci.make_layer(tree, out / "layers")
oci.write_image(out / "pause.tar", "plumbline.dev/pause:1", [layer], {"Entrypoint": ["/pause"], "User": "65535:65535"})
PYTHON
rm -rf "$out.partial/pause" "$out.partial/layers" "$out"
mv "$out.partial" "$out"
mark_done node "${definition[@]}"
