#!/bin/sh
# Takes away what up.sh made: containers, network, image, engine, agent, and all that they left in the kernel. Nothing else.
#   down.sh BINDIR
# Goes on when a step fails and says so at the end.
set -u
bin=$(readlink -f "$1")
state=${CILIUM_DEMO_DIR:-/var/lib/cilium-demo}
image=cilium-demo
export PATH="$bin:$PATH"
failed=0
try() { "$@" || { echo "demo-down: failed: $*" >&2; failed=1; }; }
gone() { # PID
	i=0
	while kill -0 "$1" 2>/dev/null; do
		i=$((i + 1))
		[ $i -lt 400 ] || { echo "demo-down: process $1 does not end" >&2; failed=1; return; }
		sleep 0.05
	done
}

[ "$(id -u)" = 0 ] || { echo "demo-down: must run as root" >&2; exit 1; }
[ -e "$state/up" ] || { echo "demo-down: nothing is up"; exit 0; }
if docker version >/dev/null 2>&1; then
	for name in app1 app2 app3; do
		if docker inspect $name >/dev/null 2>&1; then try docker rm -f $name >/dev/null; fi
	done
	if docker network inspect cilium-net >/dev/null 2>&1; then
		# What else was put on the demo's network by hand goes with it.
		for id in $(docker ps -aq --filter network=cilium-net); do try docker rm -f "$id" >/dev/null; done
		try docker network rm cilium-net >/dev/null
	fi
	if [ -e "$state/image" ]; then try docker image rm $image >/dev/null; fi
fi
if [ -e "$state/dockerd.started" ]; then
	pid=$(cat "$state/dockerd.started")
	kill "$pid" 2>/dev/null && gone "$pid"
fi
if [ -e "$state/agent.pid" ]; then
	pid=$(cat "$state/agent.pid")
	kill "$pid" 2>/dev/null && gone "$pid"
fi
try cilium-agent cleanup --all-state --force --lib-dir "$state/lib"
[ -e "$state/ip_forward" ] && try sysctl -qw "net.ipv4.ip_forward=$(cat "$state/ip_forward")"
[ -e "$state/net.ipv6.conf.all.forwarding" ] && try sysctl -qw "net.ipv6.conf.all.forwarding=$(cat "$state/net.ipv6.conf.all.forwarding")"
for mounted in $(awk -v d="$state/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r); do try umount "$mounted"; done
[ -e "$state/bpffs" ] && try umount /sys/fs/bpf
[ $failed = 0 ] && rm -rf "$state"
exit $failed
