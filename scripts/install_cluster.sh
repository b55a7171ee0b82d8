#!/usr/bin/env bash
# Builds the control plane that the tests start (etcd, the API server, the controller manager) and kubectl from their
# source into .cache/cluster/bin. Versions and checksums are those of tests/go/kubernetes/go.mod and go.sum.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

definition=(scripts/install_cluster.sh tests/go/kubernetes/go.mod tests/go/kubernetes/go.sum)
bin=$CACHE/cluster/bin
if is_done cluster "${definition[@]}" && [ -d "$bin" ]; then exit 0; fi

say "cluster: building Kubernetes and its etcd from source into $bin (1 GB to download; 8 minutes on two cores)"
rm -rf "$bin.partial"
mkdir -p "$bin.partial"
build_go tests/go/kubernetes "$bin.partial/etcd" go.etcd.io/etcd/server/v3
build_kubernetes "$bin.partial" kube-apiserver kube-controller-manager kubectl
rm -rf "$bin"
mv "$bin.partial" "$bin"
mark_done cluster "${definition[@]}"
