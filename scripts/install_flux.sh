#!/usr/bin/env bash
# Builds Flux's source-controller and kustomize-controller from source into .cache/cluster/flux, with their CRDs beside them. The
# versions and checksums are those of tests/go/flux/go.mod and go.sum.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

definition=(scripts/install_flux.sh tests/go/flux/go.mod tests/go/flux/go.sum)
out=$CACHE/cluster/flux
if is_done flux "${definition[@]}" && [ -d "$out" ]; then exit 0; fi

say "flux: building two controllers from source into $out (5 minutes on two cores)"
rm -rf "$out.partial"
mkdir -p "$out.partial/crds"
for controller in source-controller kustomize-controller; do
    module=github.com/fluxcd/$controller
    build_go tests/go/flux "$out.partial/$controller" "$module"
    cp --no-preserve=mode "$(cd tests/go/flux && go list -m -f '{{.Dir}}' "$module")"/config/crd/bases/*.yaml "$out.partial/crds/"
done
rm -rf "$out"
mv "$out.partial" "$out"
mark_done flux "${definition[@]}"
