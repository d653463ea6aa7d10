#!/bin/sh
# Installs the programs by which some tests look at the kernel and the routers that others
# are played against, or says what is missing. What cannot be had costs tests, which skip,
# and nothing else. Arguments are further programs, each in the package of its name.
PATH=$PATH:/usr/sbin:/sbin:/usr/lib/frr
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d

# PROGRAM=PACKAGE for what is not there.
missing=
for pair in ip=iproute2 nft=nftables conntrack=conntrack keepalived=keepalived vrrpd=frr promtool=prometheus "$@"; do
	command -v "${pair%%=*}" >/dev/null || missing="$missing $pair"
done
[ -n "$missing" ] || exit 0

lacking() {
	for pair in $missing; do
		command -v "${pair%%=*}" >/dev/null || printf ' %s' "${pair#*=}"
	done
}

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	packages=$(lacking)
	echo "installing$packages"
	# The tests start these daemons by themselves, in namespaces. The machine's own must
	# run neither now nor after its next boot.
	if [ ! -e $policy ]; then
		trap 'rm -f $policy' EXIT
		trap 'exit 1' INT TERM
		printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
	fi
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends $packages >/dev/null
	for service in keepalived frr conntrackd prometheus; do
		case "$packages " in
		*" $service "*) systemctl --quiet disable $service 2>/dev/null || update-rc.d $service disable 2>/dev/null ;;
		esac
	done
fi

packages=$(lacking)
[ -z "$packages" ] || echo "some tests are skipped, because packages are missing; install:$packages"
