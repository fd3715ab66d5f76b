#!/bin/bash
# What touches the kernel, on Debian's 6.1 (no tcx: clsact) and 6.12 (both with a Geneve device), in virtual machines:
# each kernel starts once and runs the parts one after the other. There is no hardware help: it takes long.
#
#   test-kernels.sh [FILTER...]          all that the parts have, or the tests whose names contain a filter
#   test-kernels.sh prepare              only download the kernels and what runs them
#
#   KERNELS="6.1 6.12"                   which ones
#   PARTS="programs world"               `programs`: the tests of bpf, `world`: those of datapath in namespaces,
#                                        `suite`: real agents, Docker and etcd
#   LIMIT=7200                           seconds for each kernel
#   CPUS=2                               of a virtual machine
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "test-kernels: run it as root" >&2; exit 1; }
cd "$(dirname "$(readlink -f "$0")")/.."
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
kernels=${KERNELS:-6.1 6.12}
parts=${PARTS:-programs world}
mkdir -p target/vm
# shellcheck disable=SC2086
contrib/vm.sh prepare $kernels
[ "${1:-}" != prepare ] || exit 0

targets=
for part in $parts; do
	case $part in
	programs | world | suite) targets+=" --test $part" ;;
	*) echo "test-kernels: there is no part $part (programs, world, suite)" >&2; exit 1 ;;
	esac
done
# As of the whole workspace: what `make test` has built serves.
# shellcheck disable=SC2086
built=$(cargo test --locked --workspace $targets --no-run --message-format=json |
	jq -r 'select(.executable != null and .profile.test) | "\(.target.name) \(.executable)"')
memory=2048
commands=
for part in $parts; do
	program=$(awk -v part="$part" '$1 == part { print $2 }' <<<"$built")
	[ -x "$program" ] || { echo "test-kernels: $part was not built" >&2; exit 1; }
	if [ "$part" = suite ]; then
		# What a machine without a network cannot make or fetch by itself.
		[ -n "${CILIUM_BIN:-}" ] || cargo build --locked -p daemon -p cli -p suite --bins
		contrib/docker-newer.sh target/docker-newer
		memory=6144
	fi
	commands+="timed $part $program --include-ignored --test-threads 1 ${*@Q} || failed=\"\$failed $part\""$'\n'
done
cat > target/vm/tests.sh <<EOF
export CILIUM_BIN=${CILIUM_BIN:-$PWD/target/debug}
failed=
timed() {
	local part=\$1 from=\$SECONDS code=0
	shift
	"\$@" || code=\$?
	echo "== \$part: \$((SECONDS - from)) s"
	return \$code
}
${commands}[ -z "\$failed" ] || { echo "== failed:\$failed"; exit 1; }
EOF
failed=
for kernel in $kernels; do
	echo "== $kernel"
	from=$SECONDS
	contrib/vm.sh run -k "$kernel" -c "${CPUS:-2}" -m $memory -t "${LIMIT:-7200}" -- bash target/vm/tests.sh ||
		failed="$failed $kernel"
	echo "== $kernel: $((SECONDS - from)) s with its start"
done
[ -z "$failed" ] || { echo "test-kernels: failed on$failed" >&2; exit 1; }
