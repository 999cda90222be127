#!/bin/sh
# Runs inside the build root: fetches the Debian packages with the packet
# filter tools and what they need for one architecture, unpacks them (they are
# not installed: they may be of a foreign architecture) and picks the files.
#
# usage: collect.sh ARCH TRIPLET OUT
#   OUT/net       what goes into the images of kube-proxy and flannel
#   OUT/certs     CA certificates in one file
#   OUT/versions  package and version, one per line
set -eu
arch=$1 triplet=$2 out=$3
export LC_ALL=C
work=$out/work
mkdir -p "$work/debs" "$work/all" "$out/net"

packages="iptables nftables conntrack ipset libc6 libmnl0 libnftnl11 libxtables12 libip4tc2 libip6tc2
	libnfnetlink0 libnetfilter-conntrack3 libnftables1 libjansson4 libgmp10 libedit2 libbsd0 libmd0 libtinfo6
	libipset13"
cd "$work/debs"
# shellcheck disable=SC2046,SC2086
apt-get -q download $(for p in $packages; do echo "$p:$arch"; done) ca-certificates
for deb in *.deb; do
	dpkg-deb -x "$deb" "$work/all"
	dpkg-deb -W --showformat='${Package} ${Version}\n' "$deb"
done | sort > "$out/versions"

# Debian still ships some libraries under /lib: everything goes under /usr/lib.
cd "$work/all"
lib=usr/lib/$triplet
mkdir -p "$lib"
if [ -d "lib/$triplet" ]; then cp -a "lib/$triplet/." "$lib/"; fi

net=$out/net
mkdir -p "$net/usr/sbin" "$net/$lib"
for tool in nft conntrack ipset xtables-nft-multi xtables-legacy-multi; do
	cp -a "usr/sbin/$tool" "$net/usr/sbin/"
done
for family in iptables ip6tables; do
	for command in "" -save -restore; do
		ln -s xtables-nft-multi "$net/usr/sbin/$family$command"
		ln -s xtables-nft-multi "$net/usr/sbin/$family-nft$command"
		ln -s xtables-legacy-multi "$net/usr/sbin/$family-legacy$command"
	done
done
cp -a "$lib/xtables" "$net/$lib/"

# Libraries: what is needed, and what that needs, until nothing is added.
needed() {
	find "$net" -type f -exec readelf -d {} + 2>/dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u
}
while :; do
	added=
	for name in $(needed); do
		[ -e "$net/$lib/$name" ] && continue
		if [ ! -e "$lib/$name" ]; then
			echo "$name is needed and in none of the packages: $packages" >&2
			exit 1
		fi
		cp -L "$lib/$name" "$net/$lib/$name"
		added=$name
	done
	[ -n "$added" ] || break
done

# The loader stands where the programs' headers say.
interpreter=$(readelf -l "$net/usr/sbin/nft" | sed -n 's/.*interpreter: \(.*\)\]/\1/p')
loader=$(basename "$interpreter")
[ -e "$net/$lib/$loader" ] || cp -L "$lib/$loader" "$net/$lib/$loader"
chmod 0755 "$net/$lib/$loader"
mkdir -p "$net$(dirname "$interpreter")"
ln -s "/$lib/$loader" "$net$interpreter"
echo "$loader" > "$out/loader"
ls "$net/$lib" > /dev/null

cat usr/share/ca-certificates/mozilla/*.crt > "$out/certs"
cd "$out"
rm -rf "$work"
