#!/bin/bash
# Runs a command on one of Debian's kernels: in a virtual machine without hardware help, on this machine's files.
#
#   vm.sh prepare KERNEL...                          download what it takes; nothing is installed
#   vm.sh run -k KERNEL [-c CPUS] [-m MIB] [-t SECONDS] -- COMMAND...
#
# KERNEL is 6.1 or 6.12. The guest sees this machine's / by virtiofs, read-only below a layer in memory: it may write
# anywhere, and nothing of it stays. Its /tmp is empty but for the current folder and VM_DIR. The exit code is the
# command's. It takes some seconds to start; what it runs is a few times slower than here, new processes much more so.
# Needs root, apt-get, and the packages kmod, cpio, busybox-static.
set -euo pipefail
VM_DIR=$(readlink -f "${VM_DIR:-$(dirname "$(readlink -f "$0")")/../target/vm}" || true)
SELF=$(readlink -f "$0")
HERE=$PWD
die() { echo "vm: $*" >&2; exit 125; }
for tool in depmod cpio /bin/busybox apt-get; do
	command -v $tool >/dev/null || die "$tool is missing (packages kmod, cpio, busybox-static)"
done
[ -n "$VM_DIR" ] || die "VM_DIR is below a folder that is not there"

package_of() {
	case $1 in
	6.1) apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-6/{print $2; exit}' ;;
	6.12) apt-cache pkgnames linux-image-6.12. | grep -E '^linux-image-6\.12\.[0-9]+.*-cloud-amd64-unsigned$' | sort -V | tail -1 ;;
	*) die "no such kernel: $1 (6.1, 6.12)" ;;
	esac
}

prepare() {
	mkdir -p "$VM_DIR/download" "$VM_DIR/qemu" "$VM_DIR/kernels"
	cd "$VM_DIR/download"
	if [ ! -x "$VM_DIR/qemu/usr/bin/qemu-system-x86_64" ]; then
		# What qemu-system-x86 would bring along, unpacked beside the system's own.
		local packages
		packages=$(apt-get install -s --no-install-recommends --reinstall qemu-system-x86 | awk '/^Inst/{print $2}' | sort -u)
		# shellcheck disable=SC2086
		apt-get download -qq $packages || die "qemu cannot be downloaded"
		for file in *.deb; do dpkg -x "$file" "$VM_DIR/qemu"; done
		rm -f ./*.deb
	fi
	local kernel package folder
	for kernel in "$@"; do
		folder=$VM_DIR/kernels/$kernel
		[ -e "$folder/complete" ] && continue
		package=$(package_of "$kernel")
		[ -n "$package" ] || die "apt knows no kernel $kernel"
		apt-get download -qq "$package" || die "$package cannot be downloaded"
		rm -rf "$folder"
		mkdir -p "$folder"
		dpkg -x "$package"_*.deb "$folder"
		rm -f "$package"_*.deb
		depmod -b "$folder" "$(ls "$folder/lib/modules")"
		touch "$folder/complete"
	done
}

# A file system in memory with busybox and the modules that it takes to get at the shared one.
first_files() {
	local folder=$VM_DIR/kernels/$1 root release
	[ -s "$folder/initrd" ] && [ "$folder/initrd" -nt "$SELF" ] && return
	root=$(mktemp -d "$VM_DIR/first.XXXX")
	release=$(ls "$folder/lib/modules")
	mkdir -p "$root"/{bin,proc,sys,dev,modules,lower,upper,new}
	cp /bin/busybox "$root/bin/"
	: > "$root/modules/order"
	# tun: its device file comes with the module, and nothing asks for the module without the file.
	for module in virtio_pci virtiofs overlay tun; do
		modprobe -d "$folder" -S "$release" --show-depends $module 2>/dev/null | awk '/^insmod/{print $2}' || :
	done | awk '!seen[$0]++' | while read -r file; do
		case $file in
		*.xz) xz -dc "$file" > "$root/modules/$(basename "${file%.xz}")"; basename "${file%.xz}" ;;
		*) cp "$file" "$root/modules/"; basename "$file" ;;
		esac >> "$root/modules/order"
	done
	cat > "$root/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod "/modules/$module" || echo "vm: no module $module"; done
for word in $($b cat /proc/cmdline); do case $word in vm.*) name=${word%%=*}; eval "${name#vm.}='${word#*=}'" ;; esac; done
$b mount -t virtiofs -o ro root /lower || { echo "vm: no root"; $b poweroff -f; }
$b mount -t tmpfs -o size=80% tmpfs /upper; $b mkdir /upper/files /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /new || { echo "vm: no overlay"; $b poweroff -f; }
for folder in dev proc sys; do $b mkdir -p /new/$folder; $b mount --move /$folder /new/$folder; done
$b mkdir -p /new/dev/pts /new/dev/shm; $b mount -t devpts devpts /new/dev/pts; $b mount -t tmpfs shm /new/dev/shm
$b mount -t cgroup2 cgroup2 /new/sys/fs/cgroup; $b mount -t bpf bpf /new/sys/fs/bpf
$b mount -t tmpfs tmpfs /new/run; $b mount -t tmpfs -o size=80% tmpfs /new/tmp; $b mkdir -p /new/lib/modules
for folder in $(echo "$keep" | $b tr , ' '); do $b mkdir -p "/new$folder"; $b mount --bind "/lower$folder" "/new$folder"; done
$b mount --bind "/lower$folders/kernels/$kernel/lib/modules" /new/lib/modules
$b ip link set lo up; $b hostname "vm-$kernel"
exec $b switch_root /new /bin/bash "$folders/guest.sh"
INIT
	chmod +x "$root/init"
	(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) > "$folder/initrd"
	rm -rf "$root"
}

run() {
	local kernel='' cpus=2 memory=2048 limit=300
	while [ $# -gt 0 ]; do
		case $1 in
		-k) kernel=$2; shift 2 ;;
		-c) cpus=$2; shift 2 ;;
		-m) memory=$2; shift 2 ;;
		-t) limit=$2; shift 2 ;;
		--) shift; break ;;
		*) break ;;
		esac
	done
	[ $# -gt 0 ] || die "nothing to run"
	(prepare "$kernel")
	first_files "$kernel"
	local files libraries virtiofsd code
	files=$(mktemp -d "$VM_DIR/run.XXXX")
	libraries=$VM_DIR/qemu/lib/x86_64-linux-gnu:$VM_DIR/qemu/usr/lib/x86_64-linux-gnu
	{
		echo "cd $(printf %q "$HERE") 2>/dev/null || cd /"
		echo "export HOME=/root TERM=dumb LANG=C.UTF-8 RUST_BACKTRACE=${RUST_BACKTRACE:-0} PATH=$(printf %q "$PATH")"
		echo 'stty -F /dev/ttyS1 raw -echo'
		echo "($(printf '%q ' "$@")) </dev/null >/dev/ttyS1 2>&1; echo \$? > /dev/ttyS2; sync; busybox poweroff -f"
	} > "$VM_DIR/guest.sh"
	env LD_LIBRARY_PATH="$libraries" "$VM_DIR/qemu/usr/lib/qemu/virtiofsd" --socket-path="$files/root.sock" \
		-o source=/ -o sandbox=chroot -o cache=always --thread-pool-size=0 > "$files/virtiofsd" 2>&1 &
	virtiofsd=$!
	for _ in $(seq 200); do [ -S "$files/root.sock" ] && break; sleep 0.05; done
	env LD_LIBRARY_PATH="$libraries" timeout --foreground "$limit" "$VM_DIR/qemu/usr/bin/qemu-system-x86_64" \
		-L "$VM_DIR/qemu/usr/share/qemu" -L "$VM_DIR/qemu/usr/share/seabios" \
		-M q35,vmport=off,smbus=off,sata=off,usb=off -accel tcg,thread=multi -cpu max,la57=off -m "$memory" -smp "$cpus" \
		-nographic -nodefaults -no-reboot -serial "file:$files/console" -serial stdio -serial "file:$files/code" \
		-object "memory-backend-memfd,id=mem,size=${memory}M,share=on" -numa node,memdev=mem \
		-chardev "socket,id=root,path=$files/root.sock" -device vhost-user-fs-pci,queue-size=1024,chardev=root,tag=root \
		-kernel "$VM_DIR/kernels/$kernel"/boot/vmlinuz-* -initrd "$VM_DIR/kernels/$kernel/initrd" \
		-append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable vm.kernel=$kernel vm.folders=$VM_DIR vm.keep=$VM_DIR,$HERE" \
		</dev/null || :
	kill "$virtiofsd" 2>/dev/null || :
	wait "$virtiofsd" 2>/dev/null || :
	code=$(tr -dc 0-9 < "$files/code" 2>/dev/null || :)
	if [ -z "$code" ]; then
		echo "vm: no exit code: more than $limit s, or a crash; its last words:" >&2
		tail -20 "$files/console" >&2 || :
		code=124
	fi
	rm -rf "$files"
	return "$code"
}

case ${1:-} in
prepare) shift; prepare "$@" ;;
run) shift; run "$@" ;;
*) sed -n 2,11p "$SELF"; exit 2 ;;
esac
