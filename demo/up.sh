#!/bin/sh
# Plays the main job on this machine, with the real Docker client and engine, and leaves it running.
#   up.sh BINDIR         the folder with cilium and cilium-agent
# What it starts is written down under $state, so that down.sh takes away just that.
set -eu
bin=$(readlink -f "$1")
here=$(dirname "$(readlink -f "$0")")
state=${CILIUM_DEMO_DIR:-/var/lib/cilium-demo}
image=cilium-demo
export PATH="$bin:$PATH"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '\033[36m$ %s\033[0m\n' "$*"; "$@"; }
# Runs a command that must fail: prints how it failed.
refused() {
	printf '\033[36m$ %s\033[0m\n' "$*"
	if "$@"; then echo "demo: this should have been refused" >&2; exit 1; fi
	printf '(refused, as the policy says)\n'
}
die() { echo "demo: $*" >&2; exit 1; }
wait_for() { # SECONDS WHAT COMMAND...
	limit=$1 what=$2; shift 2
	end=$(($(date +%s) + limit))
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s)" -lt $end ] || die "$what did not come up within $limit s; see the logs in $state"
		sleep 0.05
	done
}

[ "$(id -u)" = 0 ] || die "must run as root"
[ ! -e "$state/up" ] || die "it is up already; 'make demo-down' takes it away"
if cilium status --brief >/dev/null 2>&1; then die "an agent runs on this machine already"; fi
mkdir -p "$state" && touch "$state/up"
# The agent mounts a BPF file system where there is none.
awk '$2 == "/sys/fs/bpf"' /proc/mounts | grep -q . || touch "$state/bpffs"
sysctl -n net.ipv4.ip_forward > "$state/ip_forward"
for key in net.ipv6.conf.all.forwarding; do sysctl -n $key > "$state/$key"; done

say "The agent, on its embedded store"
setsid cilium-agent --lib-dir "$state/lib" --log-format text </dev/null > "$state/agent.log" 2>&1 &
echo $! > "$state/agent.pid"
wait_for 20 "the agent" cilium status --brief
run cilium status

if ! docker version >/dev/null 2>&1; then
	say "A Docker engine (none was running)"
	# Without a bridge of its own the engine leaves the firewall alone; it lives and goes with the demo.
	setsid dockerd --data-root "$state/docker" --exec-root "$state/docker-run" --pidfile "$state/dockerd.pid" \
		--bridge=none --iptables=false --ip6tables=false </dev/null > "$state/dockerd.log" 2>&1 &
	echo $! > "$state/dockerd.started"
	wait_for 60 "dockerd" docker version
	run docker version --format 'engine {{.Server.Version}}'
fi
if ! docker image inspect $image >/dev/null 2>&1; then
	"$here/image.sh" $image
	touch "$state/image"
fi

say "A network, and three containers told apart by their labels alone"
run docker network create --driver cilium --ipam-driver cilium --ipv6 cilium-net
run docker run -d --net cilium-net --name app1 -l id=app1 $image sh -c 'httpd -p 81 -h /www; exec httpd -f -p 80 -h /www'
run docker run -d --net cilium-net --name app2 -l id=app2 $image sleep 1000000
run docker run -d --net cilium-net --name app3 -l id=app3 $image sleep 1000000
ip4=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' app1)
ip6=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}' app1)
wait_for 10 "app1's web server" docker exec app2 curl -sS -m 1 http://app1/
run docker inspect -f '{{json .NetworkSettings.Networks}}' app1

say "Without a policy everybody reaches everybody"
run docker exec app3 curl -sS -m 3 http://app1/

say "The policy: only app2 may reach app1, and only on port 80"
run cat "$here/../examples/policies/l3-l4.json"
run cilium policy import --wait "$here/../examples/policies/l3-l4.json"

cilium monitor --type drop > "$state/monitor.log" 2>&1 &
monitor=$!
wait_for 5 "the monitor" test -s "$state/monitor.log"

say "app2 reaches app1:80"
run docker exec app2 curl -sS -m 3 http://app1/
run docker exec app2 curl -sS -m 3 "http://$ip4/public"
run docker exec app2 curl -sS -m 3 "http://[$ip6]/public"
say "app2 does not reach app1:81"
refused docker exec app2 curl -sS -m 1 "http://$ip4:81/"
refused docker exec app2 curl -sS -m 1 "http://[$ip6]:81/"
say "app3 does not reach app1 at all"
refused docker exec app3 curl -sS -m 1 "http://$ip4/"
refused docker exec app3 curl -sS -m 1 "http://[$ip6]/"
refused docker exec app3 ping -c 1 -W 1 "$ip4"

say "What 'cilium monitor --type drop' printed meanwhile"
wait_for 5 "the drops in the monitor" grep -q 'Policy denied' "$state/monitor.log"
sleep 0.2
kill $monitor 2>/dev/null || true
grep 'Policy denied' "$state/monitor.log"

say "What the agent knows"
run cilium endpoint list
run cilium identity list
run cilium policy get
run cilium bpf policy list
run docker inspect -f '{{json .NetworkSettings.Networks}}' app1

cat <<EOF

All of it goes on running. Try for example:
  cd $(pwd) && PATH=$bin:\$PATH
  cilium monitor                                     # and in another terminal:
  docker exec app3 curl -m 2 http://app1/            # a drop, with both sides' labels
  cilium policy delete --all && docker exec app3 curl -m 2 http://app1/
  docker run --rm -ti --net cilium-net -l id=app2 $image curl http://app1/public
  cilium bpf ct list ; cilium bpf metrics list ; cilium endpoint log 1
  cilium kvstore get --recursive cilium/
  make demo-down                                     # takes all of it away
EOF
