#!/bin/sh
# What conntrackd's manual says to do when the role of a router changes; and a note
# of each change, from which the benchmark learns of it. Made from a template.
dir={{.Dir}}

conntrackd() {
	/usr/sbin/conntrackd -C "$dir/{{.Replication}}" "$@" >>"$dir/notify.log" 2>&1
}

echo "$1" >>"$dir/transitions"
# Scripts of two changes that follow closely run at the same time.
exec 9>"$dir/notify.lock"
flock 9
case $1 in
primary)
	begin=$(date +%s%N)
	conntrackd -c # what the peer replicated goes into the kernel
	echo "$begin $(date +%s%N)" >>"$dir/commits"
	conntrackd -f # both caches are emptied
	conntrackd -R # what the kernel has goes into the internal cache
	conntrackd -B # and all of it to the peer
	;;
backup)
	conntrackd -t # what is left in the kernel from another term ends soon
	conntrackd -n # the peer sends all it has
	;;
fault | stop)
	conntrackd -t
	;;
esac
