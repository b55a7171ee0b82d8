#!/usr/bin/env bash
# Installs libtorch into .cache/packages (three pinned wheels) and lays out .cache/libtorch, which the build is pointed to.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

version=2.11.0
definition=(scripts/install_libtorch.sh scripts/requirements/libtorch.txt)
if is_done libtorch "${definition[@]}" && [ -e "$CACHE/libtorch/lib/libtorch_cpu.so" ]; then exit 0; fi

say "libtorch $version: downloading 545 MB and unpacking 1.2 GB into $CACHE/packages (1 to 5 minutes)"
packages=$CACHE/packages
rm -rf "$packages.partial" "$packages" "$CACHE/libtorch"
run_pip install "${PIP_SAME_WHEELS[@]}" --no-compile --target "$packages.partial" --quiet \
    --requirement scripts/requirements/libtorch.txt

# torch-sys does not check what it is given, and another version would fail much later and far less clearly.
grep -q "^__version__ = '$version" "$packages.partial/torch/version.py" ||
    fail "$packages.partial/torch is not version $version: $(grep '^__version__' "$packages.partial/torch/version.py")"
mv "$packages.partial" "$packages"

# Only the CPU half is linked; a trainer on a GPU loads the CUDA half itself when it starts.
mkdir -p "$CACHE/libtorch/lib"
ln -s ../packages/torch/include "$CACHE/libtorch/include"
for library in libtorch_cpu.so libc10.so libtorch.so libgomp.so.1; do
    [ -e "$packages/torch/lib/$library" ] || fail "$packages/torch/lib/$library is missing from the wheel"
    ln -s "../../packages/torch/lib/$library" "$CACHE/libtorch/lib/$library"
done
mark_done libtorch "${definition[@]}"
