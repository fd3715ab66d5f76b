#!/bin/sh
# Makes the demo's container image out of this machine's own busybox and curl: no registry is needed.
#   image.sh NAME        imports it into the Docker engine that `docker` talks to
set -eu
name=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/etc" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/root" "$root/www/cgi-bin"
busybox=$(command -v busybox)
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
	case $applet in busybox | wget | nslookup | ping | ping6) continue ;; esac # these need a libc that can look names up
	ln -s busybox "$root/bin/$applet"
done
# The dynamic programs bring their loader and libraries along.
for program in curl ping; do
	path=$(command -v $program)
	cp "$path" "$root/bin/$program"
	ldd "$path" | awk '/=> \//{print $3} /^\t\//{print $1}' | while read -r library; do
		mkdir -p "$root$(dirname "$library")"
		cp -L "$library" "$root$library"
	done
done
# Names are looked up by the libc itself (nss_dns, nss_files are part of glibc 2.34 and later).
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
printf 'root:x:0:0:root:/root:/bin/sh\n' > "$root/etc/passwd"
printf 'root:x:0:\n' > "$root/etc/group"
printf '<html><body><h1>It works!</h1></body></html>\n' > "$root/www/index.html"
printf "{ 'val': 'this is public' }\n" > "$root/www/public"
printf "{ 'val': 'this is private' }\n" > "$root/www/private"
tar -C "$root" -c . | docker import --change 'CMD ["/bin/sh"]' - "$name" >/dev/null
