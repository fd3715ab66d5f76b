#!/bin/sh
# Installs what is missing to build, run and test: Debian's packages by apt, Rust by rustup. Safe to repeat; does nothing
# where all is there. Needs root.
#   setup.sh          what `make demo` and `make test` need
set -eu

need_rust=1.95
packages="build-essential pkg-config protobuf-compiler libprotobuf-dev linux-libc-dev libbpf-dev
  iproute2 iptables nftables iputils-ping procps psmisc util-linux curl ca-certificates jq openssl
  bpftool busybox-static etcd-server etcd-client iperf3 faketime docker.io docker-compose
  kmod cpio xz-utils"

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || die "must run as root"
command -v apt-get >/dev/null || die "this is no Debian: install clang (16 or newer), libclang, protobuf's compiler and its files, libbpf's headers, Docker, etcd, iproute2, nftables, iptables, bpftool, busybox (static), iperf3, jq"

# clang: any version from 16 on will do, 19 is what is tested.
if ! ls /usr/bin/clang-1[6-9] /usr/bin/clang-2[0-9] >/dev/null 2>&1; then packages="$packages clang-19"; fi
if ! ls -d /usr/lib/llvm-*/lib/libclang.so* >/dev/null 2>&1; then packages="$packages libclang-19-dev"; fi
# Another Docker engine (docker-ce, say) serves as well as Debian's.
if command -v dockerd >/dev/null; then packages=$(echo "$packages" | sed 's/docker\.io//'); fi

missing=""
for package in $packages; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
	say "installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# Packages that start a service would do so with settings that are not ours: no service is started by this.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' > $policy
		chmod 755 $policy
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
	fi
	# shellcheck disable=SC2086
	apt-get install -y -qq --no-install-recommends $missing >/dev/null
	rm -f $policy
fi

PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
version=$(cargo --version 2>/dev/null | awk '{print $2}' || true)
newest=$(printf '%s\n%s\n' "$need_rust" "${version:-0}" | sort -V | tail -n 1)
if [ -z "$version" ] || [ "$newest" != "$version" ]; then
	say "installing Rust (found: ${version:-none}, needed: $need_rust or newer)"
	if command -v rustup >/dev/null; then
		rustup toolchain install stable --profile minimal -c clippy -c rustfmt
		rustup default stable
	else
		curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt
	fi
fi
say "all is there"
