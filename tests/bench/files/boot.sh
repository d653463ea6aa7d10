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
# While conntrackd commits, replies arrive at the NAT address that belong to no session
# yet. They must not reach the kernel's own sockets, which would reset the connection,
# and must not be forwarded before the address is there, which would take the port that
# the session needs.
nft -f - <<END
table ip router
delete table ip router
table ip router {
	chain input {
		type filter hook input priority filter; policy accept;
		ip daddr {{.NATAddress}} ct state != { established, related } drop
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname { wan0, vrrp20 } ct state != { established, related } drop
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
