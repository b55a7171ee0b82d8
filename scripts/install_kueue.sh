#!/usr/bin/env bash
# Builds Kueue's controller from source into an image for the node, .cache/cluster/kueue/kueue.tar, with Kueue's own chart beside
# it. The version and checksums are those of tests/go/kueue/go.mod and go.sum.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

# As in setup.sh: two in one shared folder take turns.
exec 9>"$CACHE/lock"
flock 9
definition=(scripts/install_kueue.sh tests/go/kueue/go.mod tests/go/kueue/go.sum images/oci.py)
out=$CACHE/cluster/kueue
if is_done kueue "${definition[@]}" && [ -d "$out" ]; then exit 0; fi

module=sigs.k8s.io/kueue
version=$(cd tests/go/kueue && go list -m -f '{{.Version}}' "$module")
say "kueue: building Kueue $version from source into $out (4 minutes on two cores)"
rm -rf "$out.partial"
mkdir -p "$out.partial"
build_go tests/go/kueue "$out.partial/manager" "$module/cmd/kueue" "-X $module/pkg/version.GitVersion=$version"
PYTHONPATH=images PYTHONDONTWRITEBYTECODE=1 python3 - "$out.partial" <<'PYTHON'
import sys
from pathlib import Path

import oci

out = Path(sys.argv[1])
tree = oci.Tree()
tree.file("manager", out / "manager", 0o755)
layer = oci.make_layer(tree, out / "layers")
oci.write_image(out / "kueue.tar", "plumbline.dev/kueue:tests", [layer], {"Entrypoint": ["/manager"], "User": "65532:65532"})
PYTHON
cp -r --no-preserve=mode "$(cd tests/go/kueue && go list -m -f '{{.Dir}}' "$module")/charts/kueue" "$out.partial/chart"
rm -rf "$out.partial/manager" "$out.partial/layers" "$out"
mv "$out.partial" "$out"
mark_done kueue "${definition[@]}"
