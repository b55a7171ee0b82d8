#!/usr/bin/env bash
# Says everything that is missing on this machine at once, before anything long begins. With --tests: for the tests too; with
# --cluster: for a cluster with a node as well. With --plan it only says what `make test` will do, and how long that takes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh
open_cache

problems=()
missing() { problems+=("$1"); }

case "$(uname -s) $(uname -m)" in
"Linux x86_64") ;;
*) missing "this is $(uname -s) on $(uname -m); the pinned libtorch is built for Linux on x86_64" ;;
esac

if ! command -v python3 >/dev/null; then
    missing "python3 is missing (Debian: apt-get install python3 python3-venv)"
elif ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    missing "python3 is $(python3 -V 2>&1 | cut -d' ' -f2), 3.11 or newer is needed (Debian 12 and later have it)"
elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    missing "python3 cannot make environments (Debian: apt-get install python3-venv)"
fi

if ! command -v cc >/dev/null || ! command -v c++ >/dev/null; then
    missing "a C and a C++ compiler, cc and c++, are missing (Debian: apt-get install build-essential)"
elif ! printf '#include <optional>\nint main() { return std::optional<int>(0).value(); }\n' |
    c++ -std=c++17 -x c++ -fsyntax-only - 2>/dev/null; then
    missing "c++ cannot compile C++17 with its standard library (Debian: apt-get install build-essential)"
fi

rust=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
if ! command -v cargo >/dev/null; then
    missing "cargo is missing; Rust $rust is needed (https://rustup.rs; Debian 13 and later: apt-get install rustup)"
elif ! found=$(cargo --version 2>&1 | tail -n 1 | cut -d' ' -f2) ||
    [ "$(printf '%s\n' "$rust" "$found" | sort -V | head -n 1)" != "$rust" ]; then
    missing "cargo is ${found:-broken}; Rust $rust or newer is needed (rustup toolchain install $rust)"
fi

# built STEP [MODULE]: whether a step that builds a module of tests/go is done, as its own script defines it.
built() {
    local line definition=()
    line=$(grep "^definition=(.* tests/go/${2:-$1}/" "scripts/install_${1%4}.sh") || fail "scripts/install_${1%4}.sh defines no $1"
    eval "$line"
    is_done "$1" "${definition[@]}"
}
steps=()
case "${1:-}" in
--tests | --plan) steps=("cluster kubernetes" gitops store helm helm4 flux) ;;
--cluster) steps=("cluster kubernetes" gitops store helm helm4 flux "node kubernetes" kueue) ;;
esac
to_build=()
for step in "${steps[@]}"; do
    # shellcheck disable=SC2086 # a step and its module
    built $step || to_build+=("${step%% *}")
done
if [ "${#to_build[@]}" -gt 0 ]; then
    go=$(sed -n 's/^go //p' tests/go/kubernetes/go.mod)
    use="Go $go or newer builds what the tests start: ${to_build[*]} (https://go.dev/dl)"
    if ! command -v go >/dev/null; then
        missing "go is missing; $use"
    elif ! found=$(cd tests/go/kubernetes && go env GOVERSION 2>&1) ||
        [ "$(printf '%s\n' "go$go" "$found" | sort -V | head -n 1)" != "go$go" ]; then
        missing "go is ${found#go}; $use"
    fi
fi

# libtorch 1.2 GB and its download, the builds 5 GB, the imported model 0.5 GB. For the tests: Go's modules 4 GB and its build
# cache 9 GB, the builds 5 GB. What is there already is not asked for again.
needed=8
if is_done libtorch scripts/install_libtorch.sh scripts/requirements/libtorch.txt; then needed=1; fi
if [ "${#to_build[@]}" -eq "${#steps[@]}" ] && [ "${#steps[@]}" -gt 0 ]; then needed=$((needed + 18)); fi
free=$(df -Pk "$CACHE" | awk 'NR == 2 { print int($4 / 1048576) }')
if [ "$free" -lt "$needed" ]; then
    missing "$free GB are free on the disk of $(pwd); $needed GB are needed (PLUMBLINE_CACHE=DIR puts most of it elsewhere)"
fi

memory=$(awk '/^MemTotal/ { print int($2 / 1048576 + 0.5) }' /proc/meminfo)
for limit in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
    bytes=$(cat "$limit" 2>/dev/null || echo max)
    if [ "$bytes" != max ] && [ "$((bytes / 1073741824))" -lt "$memory" ]; then memory=$((bytes / 1073741824)); fi
done
if [ "$memory" -lt 3 ]; then
    missing "this machine has $memory GB of memory; compiling the libtorch binding takes 3 GB"
elif [ "$memory" -lt 6 ]; then
    say "note: with $memory GB of memory, build with CARGO_BUILD_JOBS=1; the quickstart needs 4.6 GB"
fi

if [ "${1:-}" = --plan ]; then
    say "make test, on two cores:"
    if ! [ -e "$CACHE/libtorch" ]; then
        say "  1. formatting, lints and tests that need neither libtorch nor Kubernetes: 10 minutes"
    fi
    if ! is_done libtorch scripts/install_libtorch.sh scripts/requirements/libtorch.txt; then
        say "  2. libtorch and the quickstart's inputs, once: 0.7 GB to download, 5 minutes"
    fi
    if [ "${#to_build[@]}" -gt 0 ]; then
        say "  3. from Go source, once: ${to_build[*]}; with all of them 1 GB to download, 18 GB of disk, 30 minutes"
    fi
    say "  4. everything: 12 minutes, and 20 more the first time"
    for problem in "${problems[@]}"; do say "  step 2 will stop here: $problem"; done
    exit 0
fi

if [ "${#problems[@]}" -gt 0 ]; then
    printf 'error: %s\n' "${problems[@]}" >&2
    exit 1
fi
