#!/bin/sh -e
# What stands on a node before the daemons start. Made from a template.
sysctl() {
	echo "$2" >"/proc/sys/net/$1"
}
sysctl ipv4/ip_forward 1
sysctl ipv4/conf/all/rp_filter 0
sysctl ipv4/conf/default/rp_filter 0
sysctl ipv4/conf/all/send_redirects 0
sysctl ipv4/conf/default/send_redirects 0
# The physical port must not speak for a virtual address.
sysctl ipv4/conf/all/arp_ignore 1
sysctl ipv4/conf/all/arp_announce 2
{{- range .Addresses}}
ip address replace {{.Prefix}} dev {{.Link}}
sysctl ipv4/conf/{{.Link}}/rp_filter 0
{{- end}}
ip route replace default via {{.Gateway}}
# A packet to the NAT address that nobody has a session for must not reach the kernel's
# own sockets, which would reset the connection while conntrackd commits.
nft -f - <<END
table ip router
delete table ip router
table ip router {
	chain input {
		type filter hook input priority filter; policy accept;
		ip daddr {{.NATAddress}} ct state != { established, related } drop
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname { wan0, vrrp20 } ip saddr {{.LAN}} snat to {{.NATAddress}}
	}
}
END
# Replicated windows are older than the packets.
sysctl netfilter/nf_conntrack_tcp_be_liberal 1
sysctl netfilter/nf_conntrack_tcp_loose 1
