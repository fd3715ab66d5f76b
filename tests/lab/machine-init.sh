# Runs as the first process of a machine's namespaces (mount, uts, ipc, cgroup, pid, net) and makes them look like a host.
# $1: the machine's folder on the real disk. $2: its name. $3: "world" for an uplink to a world of its own, "bare" for none.
set -e
mount --make-rprivate /
mount -t proc proc /proc
hostname "$2"
# A sysfs made in this network namespace shows its devices; it starts without the mounts below it.
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/init
echo $$ > /sys/fs/cgroup/init/cgroup.procs
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
	echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || :
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/docker/plugins /run/lock /run/netns
ip link set lo up
if [ "$3" = world ]; then
	# The outside world: one host behind the machine's uplink.
	ip netns add world
	ip link add eth0 type veth peer name eth0 netns world
	ip addr add 172.31.77.2/24 dev eth0
	ip addr add fd77::2/64 dev eth0 nodad
	ip link set eth0 up
	ip -n world addr add 172.31.77.1/24 dev eth0
	ip -n world addr add fd77::1/64 dev eth0 nodad
	ip -n world link set lo up
	ip -n world link set eth0 up
	ip route add default via 172.31.77.1
	ip -6 route add default via fd77::1
fi
echo nameserver 172.31.77.1 > /run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf 2>/dev/null || :
: > "$1/ready"
# The first process must reap what others leave behind.
trap : TERM INT
while :; do sleep 1000 & wait $! || :; done
