#!/bin/sh
# The whole test suite: every rung, those that need root included. A plain `cargo test` runs the ones that need nothing.
set -eu
[ "$(id -u)" = 0 ] || { echo "test: the suite changes network namespaces and loads BPF programs: run it as root" >&2; exit 1; }
cd "$(dirname "$(readlink -f "$0")")/.."
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
# The binaries that the suite starts are the ones that are shipped.
contrib/build.sh
cargo build --release --locked -p suite --bin lab-probe
cp -f target/release/lab-probe target/dist/
CILIUM_BIN=$(pwd)/target/dist
export CILIUM_BIN
# Another build of the agent, linked dynamically: what is upgraded to, and what is given another wall clock.
cargo build --locked -p daemon
# A failing scene tells what it saw; the frames above it say nothing more.
export RUST_BACKTRACE=0
exec cargo test --workspace --locked --no-fail-fast -- --include-ignored --test-threads "${TEST_THREADS:-2}"
