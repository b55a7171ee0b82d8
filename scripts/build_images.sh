#!/usr/bin/env bash
# Builds the images of the operator and of the trainer into .cache/images, as OCI layouts in tars; needs no Docker.
# --cuda: the image of the trainer for NVIDIA's GPUs instead, into .cache/images-cuda.
# PLUMBLINE_IMAGE_PREFIX: what their names begin with. Default: plumbline.dev
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

for program in apt-get dpkg-deb readelf strip; do
    command -v "$program" >/dev/null ||
        fail "$program is missing; the images are built on Debian 12 (binutils installed), or from images/Containerfile.* anywhere"
done
out=$CACHE/images
images=(operator trainer)
if [ "${1:-}" = --cuda ]; then
    out=$CACHE/images-cuda
    images=(trainer-cuda)
    lock_cache
    scripts/install_cuda.sh
    unlock_cache
fi
cargo build --release --locked --package plumbline-operator --package plumbline-trainer --bins
lock_cache
say "images: writing $out"
PYTHONDONTWRITEBYTECODE=1 python3 images/build.py "${CARGO_TARGET_DIR:-target}/release" "$CACHE" "$out" \
    "${PLUMBLINE_IMAGE_PREFIX:-plumbline.dev}" "${images[@]}"
