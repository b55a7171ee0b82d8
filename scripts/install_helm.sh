#!/usr/bin/env bash
# Builds the Helm that the chart's tests run from its source into .cache/cluster/bin. Version and checksums are those of
# tests/helm/go.mod and go.sum.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

definition=(scripts/install_helm.sh tests/helm/go.mod tests/helm/go.sum)
program=$CACHE/cluster/bin/helm
if is_done helm "${definition[@]}" && [ -x "$program" ]; then exit 0; fi

version_of() { (cd tests/helm && go list -m -f '{{.Version}}' "$1"); }
version=$(version_of helm.sh/helm/v3)
# Without a cluster, charts are rendered for the Kubernetes of Helm's own client; without these flags, for 1.20.
IFS=. read -r _ minor _ <<<"$(version_of k8s.io/client-go)"
say "helm: building Helm $version from source (2 minutes on two cores)"
module=helm.sh/helm/v3
flags="-X $module/internal/version.version=$version"
for package in chartutil lint/rules; do
    flags+=" -X $module/pkg/$package.k8sVersionMajor=1 -X $module/pkg/$package.k8sVersionMinor=$minor"
done
build_go tests/helm "$program" "$module/cmd/helm" "$flags"
mark_done helm "${definition[@]}"
