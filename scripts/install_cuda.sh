#!/usr/bin/env bash
# Brings the rest of CUDA into .cache/packages-cuda, for the image of the trainer that computes on NVIDIA's GPUs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

definition=(scripts/install_cuda.sh scripts/requirements/cuda.txt)
packages=$CACHE/packages-cuda
if is_done cuda "${definition[@]}" && [ -d "$packages/nvidia" ]; then exit 0; fi

say "CUDA: downloading 2.0 GB and unpacking 2.8 GB into $packages"
rm -rf "$packages.partial" "$packages"
# Each wheel is tagged by the oldest system that it runs on.
run_pip install "${PIP_SAME_WHEELS[@]}" --platform manylinux_2_27_x86_64 --platform manylinux_2_18_x86_64 \
    --platform manylinux_2_12_x86_64 --no-compile --target "$packages.partial" --quiet \
    --requirement scripts/requirements/cuda.txt
mv "$packages.partial" "$packages"
mark_done cuda "${definition[@]}"
