#!/usr/bin/env bash
# Builds the images of the operator and of the trainer into .cache/images, as OCI layouts in tars; needs no Docker.
# PLUMBLINE_IMAGE_PREFIX: what their names begin with. Default: plumbline.dev
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

for program in apt-get dpkg-deb readelf strip; do
    command -v "$program" >/dev/null ||
        fail "$program is missing; the images are built on Debian 12 (binutils installed), or from images/Containerfile.* anywhere"
done
cargo build --release --locked --package plumbline-operator --package plumbline-trainer --bins
say "images: writing .cache/images"
PYTHONDONTWRITEBYTECODE=1 python3 images/build.py "${CARGO_TARGET_DIR:-target}/release" "$CACHE" "$CACHE/images" \
    "${PLUMBLINE_IMAGE_PREFIX:-plumbline.dev}"
