#!/usr/bin/env bash
# Brings in everything that a build and the quickstart need, from the package registries, into .cache; with --tests also
# the Kubernetes that tests start, the checker of their statuses, Helm, Flux's controllers and Prometheus.
# It can be cut at any time and run again; what is there is kept. With PLUMBLINE_CACHE=FOLDER, .cache is a link to that
# folder, so that several clones share one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

open_cache

scripts/check_machine.sh "$@"
lock_cache
scripts/install_libtorch.sh
scripts/fetch_inputs.sh
if [ "${1:-}" = --tests ]; then
    scripts/install_cluster.sh
    scripts/install_gitops.sh
    scripts/install_store.sh
    scripts/install_helm.sh
    scripts/install_flux.sh
    scripts/install_prometheus.sh
fi
say "setup: ready ($(du -shL "$CACHE/packages" | cut -f1) of libraries, $(du -shL "$CACHE/inputs" | cut -f1) of inputs in $CACHE)"
