#!/usr/bin/env bash
# Builds the checker that reads statuses as GitOps tools do (tests/go/gitops) from source into .cache/cluster/bin. A step of its
# own, so that a change of it does not build Kubernetes again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

definition=(scripts/install_gitops.sh tests/go/gitops/go.mod tests/go/gitops/go.sum tests/go/gitops/*.go)
program=$CACHE/cluster/bin/gitops-checker
if is_done gitops "${definition[@]}" && [ -x "$program" ]; then exit 0; fi

say "gitops: building the checker of statuses from source (a minute on two cores)"
build_go tests/go/gitops "$program" .
mark_done gitops "${definition[@]}"
