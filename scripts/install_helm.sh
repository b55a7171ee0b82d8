#!/usr/bin/env bash
# Builds the Helms that the chart's tests run from their source into .cache/cluster/bin: `helm` is version 3, `helm4` is 4.
# Versions and checksums are those of go.mod and go.sum in tests/go/helm and tests/go/helm4.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

bin=$CACHE/cluster/bin
version_of() { (cd "$1" && go list -m -f '{{.Version}}' "$2"); }

definition=(scripts/install_helm.sh tests/go/helm/go.mod tests/go/helm/go.sum)
if ! is_done helm "${definition[@]}" || [ ! -x "$bin/helm" ]; then
    module=helm.sh/helm/v3
    version=$(version_of tests/go/helm $module)
    # Without a cluster, charts are rendered for the Kubernetes of Helm's own client; without these flags, for 1.20.
    IFS=. read -r _ minor _ <<<"$(version_of tests/go/helm k8s.io/client-go)"
    say "helm: building Helm $version from source (2 minutes on two cores)"
    flags="-X $module/internal/version.version=$version"
    for package in chartutil lint/rules; do
        flags+=" -X $module/pkg/$package.k8sVersionMajor=1 -X $module/pkg/$package.k8sVersionMinor=$minor"
    done
    build_go tests/go/helm "$bin/helm" "$module/cmd/helm" "$flags"
    mark_done helm "${definition[@]}"
fi

definition=(scripts/install_helm.sh tests/go/helm4/go.mod tests/go/helm4/go.sum)
if ! is_done helm4 "${definition[@]}" || [ ! -x "$bin/helm4" ]; then
    module=helm.sh/helm/v4
    version=$(version_of tests/go/helm4 $module)
    say "helm: building Helm $version from source (2 minutes on two cores)"
    build_go tests/go/helm4 "$bin/helm4" "$module/cmd/helm" "-X $module/internal/version.version=$version"
    mark_done helm4 "${definition[@]}"
fi
