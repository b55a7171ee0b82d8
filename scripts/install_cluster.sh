#!/usr/bin/env bash
# Builds the control plane that the tests start (etcd, the API server, the controller manager) and kubectl from their
# source into .cache/cluster/bin. Versions and checksums are those of tests/cluster/go.mod and go.sum.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

definition=(scripts/install_cluster.sh tests/cluster/go.mod tests/cluster/go.sum)
bin=$CACHE/cluster/bin
if is_done cluster "${definition[@]}" && [ -d "$bin" ]; then exit 0; fi

version=$(cd tests/cluster && go list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${version#v}"
say "cluster: building Kubernetes $version and its etcd from source into $bin (1 GB to download; 8 minutes on two cores)"
rm -rf "$bin.partial"
mkdir -p "$bin.partial"
out=$(cd "$bin.partial" && pwd -P)

# A server without these calls itself v0.0.0-master, and clients take it for one that can do nothing.
stamp=k8s.io/component-base/version
flags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor"
build() {
    say "  $1"
    (cd tests/cluster && CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$out/$1" "$2")
}
build etcd go.etcd.io/etcd/server/v3
for program in kube-apiserver kube-controller-manager kubectl; do
    build "$program" "k8s.io/kubernetes/cmd/$program"
done
rm -rf "$bin"
mv "$bin.partial" "$bin"
mark_done cluster "${definition[@]}"
