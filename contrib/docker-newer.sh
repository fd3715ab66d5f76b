#!/bin/sh
# Unpacks (does not install) the Docker engine of Debian's next suite into DIR/root, for tests against a second engine.
#   docker-newer.sh DIR
# The installed runc serves it: the newer suite's needs a newer libc.
set -eu
mkdir -p "$1"
dir=$(readlink -f "$1")
suite=${DOCKER_SUITE:-trixie}
[ ! -x "$dir/root/usr/sbin/dockerd" ] || exit 0
work=$(mktemp -d "$dir/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/dl"
mirror=$(awk '/^URIs:/{print $2; exit} /^deb /{for (i = 2; i <= NF; i++) if ($i ~ /^http/) {print $i; exit}}' \
	/etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} $suite main" > "$work/list"
apt="-o Dir::Etc::sourcelist=$work/list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User=root"
# shellcheck disable=SC2086
apt-get $apt update -qq
# shellcheck disable=SC2086
(cd "$work/dl" && apt-get $apt download -qq docker.io docker-cli containerd 2>/dev/null || apt-get $apt download -qq docker.io containerd)
for file in "$work"/dl/*.deb; do dpkg -x "$file" "$work/root"; done
rm -rf "$dir/root"
mv "$work/root" "$dir/root"
"$dir/root/usr/sbin/dockerd" --version >&2
