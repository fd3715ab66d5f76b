#!/bin/sh
# Builds cilium and cilium-agent, linked statically (one file runs on every distribution, and in an image that holds
# nothing else), and puts them under target/dist.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
host=$(rustc -vV | sed -n 's/^host: //p')
# With --target the flag does not reach build scripts and procedural macros, which cannot be static.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" cargo build --release --locked --target "$host" -p daemon -p cli
mkdir -p target/dist
for name in cilium cilium-agent; do
	cp -f "target/$host/release/$name" "target/dist/.$name.new"
	mv -f "target/dist/.$name.new" "target/dist/$name"
done
