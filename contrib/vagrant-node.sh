#!/bin/sh
# Makes a fresh Debian 12 machine a node of the Vagrantfile's lab: a member of etcd, Docker, and the agent. Safe to repeat.
#   vagrant-node.sh NUMBER COUNT     which node of how many; the repository is in /vagrant
set -eu
number=$1 count=$2
network=192.168.56.1
cd /vagrant
contrib/setup.sh

members="" endpoints=""
for n in $(seq 1 "$count"); do
	members="$members${members:+,}node$n=http://$network$n:2380"
	endpoints="$endpoints${endpoints:+,}http://$network$n:2379"
done
cat > /etc/default/etcd <<END
ETCD_NAME=node$number
ETCD_DATA_DIR=/var/lib/etcd/lab
ETCD_LISTEN_CLIENT_URLS=http://$network$number:2379
ETCD_ADVERTISE_CLIENT_URLS=http://$network$number:2379
ETCD_LISTEN_PEER_URLS=http://$network$number:2380
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://$network$number:2380
ETCD_INITIAL_CLUSTER=$members
END
systemctl enable etcd
# The first members wait for the others: nobody waits for them here.
systemctl restart --no-block etcd

make install
cat > /etc/default/cilium-agent <<END
CILIUM_OPTS=--kvstore=etcd --kvstore-opt=etcd.address=$endpoints --node-name=node$number --node-ip=$network$number --cluster-pool-ipv4=10.64.0.0/16 --cluster-pool-ipv6=fd64::/64
END
systemctl daemon-reload
systemctl enable cilium-agent docker
# Likewise: the first agent is ready when a majority of etcd's members is there.
systemctl restart --no-block cilium-agent
systemctl restart --no-block docker
tries=0
until docker version >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ $tries -lt 180 ] || { echo "vagrant-node: Docker does not start: see journalctl --unit docker" >&2; exit 1; }
	sleep 1
done
demo/image.sh lab
