#!/usr/bin/env bash
# Brings in what a cluster with a node has beside the control plane (install_cluster.sh): kubelet, scheduler, proxy and DNS
# server, built from source into .cache/cluster/node, the image of a pod's first process, Debian's containerd, and an image with a
# shell under the name that docs/install.md has for one, as the node reaches no registry.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

packages=(containerd runc containernetworking-plugins iptables iproute2)
needed=(containerd ctr runc iptables /usr/lib/cni/bridge ip)
missing=()
for program in "${needed[@]}"; do command -v "$program" >/dev/null || missing+=("$program"); done
if [ "${#missing[@]}" -gt 0 ]; then
    install=(apt-get install --no-install-recommends "${packages[@]}")
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        fail "missing: ${missing[*]}; on Debian: ${install[*]}"
    fi
    say "node: installing ${packages[*]} (60 MB to download)"
    DEBIAN_FRONTEND=noninteractive with_lists "${install[@]}" --yes --quiet=2
fi

lock_cache
definition=(scripts/install_node.sh tests/go/kubernetes/{go.mod,go.sum,dns/*,node/pause.c} images/oci.py)
out=$CACHE/cluster/node
if is_done node "${definition[@]}" && [ -d "$out" ]; then exit 0; fi

say "node: building kubelet, scheduler, proxy and DNS server from source into $out (3 minutes after \`make setup-tests\`)"
rm -rf "$out.partial"
mkdir -p "$out.partial"
build_kubernetes "$out.partial" kubelet kube-proxy kube-scheduler
build_go tests/go/kubernetes/dns "$out.partial/coredns" .
gcc -static -O2 -s -o "$out.partial/pause" tests/go/kubernetes/node/pause.c
if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    download() { (cd "$out.partial" && apt-get download --quiet=2 busybox-static); }
    with_lists download
    dpkg-deb --extract "$out.partial"/busybox-static_*.deb "$out.partial/unpacked"
    cp "$out.partial/unpacked/bin/busybox" "$out.partial/busybox"
    rm -rf "$out.partial"/busybox-static_*.deb "$out.partial/unpacked"
else
    busybox=$(command -v busybox) || fail "busybox is missing; install it, linked statically"
    cp "$busybox" "$out.partial/busybox"
fi
PYTHONPATH=images PYTHONDONTWRITEBYTECODE=1 python3 - "$out.partial" <<'PYTHON'
import sys
from pathlib import Path

import oci

out = Path(sys.argv[1])
tree = oci.Tree()
tree.file("pause", out / "pause", 0o755)
layer = oci.make_layer(tree, out / "layers")
oci.write_image(out / "pause.tar", "plumbline.dev/pause:1", [layer], {"Entrypoint": ["/pause"], "User": "65535:65535"})

tree = oci.Tree()
tree.file("bin/busybox", out / "busybox", 0o755)
for program in ("sh", "sleep", "tar", "test"):
    tree.link(f"bin/{program}", "busybox")
layer = oci.make_layer(tree, out / "layers")
oci.write_image(out / "busybox.tar", "docker.io/library/busybox:1.37", [layer], {"Env": ["PATH=/bin"], "Cmd": ["sh"]})
PYTHON
rm -rf "$out.partial"/{pause,busybox,layers} "$out"
mv "$out.partial" "$out"
mark_done node "${definition[@]}"
