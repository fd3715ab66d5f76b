#!/bin/sh
# Measures everything, each row beside its comparison, and prints one table. Needs root and a quiet machine.
#   bench.sh BINDIR [--quick] [--only SECTION]…
set -eu
bin=$(readlink -f "$1")
shift
cd "$(dirname "$(readlink -f "$0")")/.."
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
cargo build --release --locked -p xtask -p suite --bins
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$bin/cilium" "$bin/cilium-agent" target/release/lab-probe target/release/xtask "$work/"
CILIUM_BIN="$work" target/release/lab-bench "$@"
