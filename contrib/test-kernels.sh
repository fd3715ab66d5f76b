#!/bin/bash
# The tests that load packet programs, on Debian's 6.1 (no tcx: clsact) and 6.12 (both with a Geneve device) in virtual
# machines. Arguments are filters on the tests' names; without any, all run, which takes long: there is no hardware help.
#
#   KERNELS="6.1 6.12"   which ones
#   LIMIT=7200           seconds for each
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "test-kernels: run it as root" >&2; exit 1; }
cd "$(dirname "$(readlink -f "$0")")/.."
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
mapfile -t programs < <(cargo test --locked -p bpf -p datapath --no-run --message-format=json |
	jq -r 'select(.executable != null and (.target.name == "programs" or .target.name == "world")) | .executable')
[ "${#programs[@]}" = 2 ] || { echo "test-kernels: the tests were not built" >&2; exit 1; }
mkdir -p target/vm
failed=
for kernel in ${KERNELS:-6.1 6.12}; do
	echo "== $kernel"
	for program in "${programs[@]}"; do
		contrib/vm.sh run -k "$kernel" -t "${LIMIT:-7200}" -- "$program" --include-ignored --test-threads 1 "$@" ||
			failed="$failed $kernel:$(basename "$program")"
	done
done
[ -z "$failed" ] || { echo "test-kernels: failed:$failed" >&2; exit 1; }
