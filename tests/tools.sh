#!/bin/sh
# Installs the programs by which some tests look at the kernel, or says what is missing.
# Arguments are further programs, each in the package of its name.
PATH=$PATH:/usr/sbin:/sbin
packages="iproute2 nftables conntrack $*"
for tool in ip nft conntrack "$@"; do
	command -v "$tool" >/dev/null && continue
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "installing $packages"
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages >/dev/null
		exit
	fi
	echo "$tool is missing, so some tests are skipped; install: $packages"
done
