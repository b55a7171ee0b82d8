#!/usr/bin/env bash
# Brings in the Prometheus that tests ask about alerts and metrics, and its promtool, into .cache/cluster/bin: from Debian's
# package, which is unpacked and not installed; where there is no apt, those of this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

definition=(scripts/install_prometheus.sh)
bin=$CACHE/cluster/bin
if is_done prometheus "${definition[@]}" && [ -x "$bin/prometheus" ] && [ -x "$bin/promtool" ]; then exit 0; fi

download() { (cd "$1" && apt-get download --quiet=2 prometheus); }

mkdir -p "$bin"
if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    say "prometheus: unpacking Debian's package into $bin (19 MB to download)"
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    with_lists download "$folder"
    dpkg-deb --extract "$folder"/prometheus_*.deb "$folder/unpacked"
    for program in prometheus promtool; do
        cp "$folder/unpacked/usr/bin/$program" "$bin/$program.partial"
        mv "$bin/$program.partial" "$bin/$program"
    done
else
    for program in prometheus promtool; do
        found=$(command -v "$program") || fail "$program is missing; install Prometheus (https://prometheus.io/download)"
        ln -sf "$found" "$bin/$program"
    done
fi
mark_done prometheus "${definition[@]}"
