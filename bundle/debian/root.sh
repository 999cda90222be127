#!/bin/sh
# Runs inside a freshly debootstrapped build root: current package lists with
# security updates, then the packages that are given. A target architecture
# other than the root's own makes it a cross root.
#
# usage: root.sh NATIVE TARGET PACKAGE...
set -eu
native=$1 target=$2
shift 2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# The mirror is the one that debootstrap was told or knows; its security
# archive stands beside it.
uri=$(sed -n 's/^deb \([^ ]*\) .*/\1/p' /etc/apt/sources.list | head -n 1)
release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
security=$(echo "$uri" | sed 's,/debian/*$,/debian-security,')
{
	echo "deb $uri $release main"
	[ "$security" = "$uri" ] || echo "deb $security $release-security main"
} > /etc/apt/sources.list

[ "$native" = "$target" ] || dpkg --add-architecture "$target"
# apt's own sandbox user cannot use every host's temporary folders and
# namespaces; the signatures are checked all the same.
echo 'APT::Sandbox::User "root";' > /etc/apt/apt.conf.d/90kprov
apt-get -q update
apt-get -q -y --no-install-recommends upgrade
apt-get -q -y --no-install-recommends install "$@"
apt-get clean
