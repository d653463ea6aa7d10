package kernel

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/router"
)

func TestExplain(t *testing.T) {
	create := op{kind: createLink, link: "vrrp-lan", virtual: router.VirtualLink{Name: "vrrp-lan", Parent: "lan0"}}
	table := op{kind: replaceTable, value: "tandem-edge"}
	sysctl := op{kind: setSysctl, path: "net/ipv4/ip_forward", value: "1"}
	tests := []struct {
		name string
		op   op
		err  error
		want []string
	}{
		{"no macvlan", create, unix.EOPNOTSUPP, []string{"create link vrrp-lan on lan0", "load the module macvlan"}},
		{"bridge port", create, unix.EBUSY, []string{"lan0 is the port of a bridge", "take it out"}},
		{"not Ethernet", create, unix.EINVAL, []string{"lan0 is no Ethernet interface", "name another"}},
		{"foreign table", table, unix.EPERM, []string{"replace table ip tandem-edge", "another program owns", "nft list table ip tandem-edge"}},
		{"no NAT", table, unix.ENOENT, []string{"load the modules nft_ct, nft_nat and nft_chain_nat"}},
		{"no nftables", table, unix.EPROTONOSUPPORT, []string{"load the module nf_tables"}},
		{"container", sysctl, &os.PathError{Op: "open", Path: "/proc/sys/net/ipv4/ip_forward", Err: unix.EROFS}, []string{"set net/ipv4/ip_forward to 1", "/proc/sys is read-only here", "--privileged"}},
		{"not root", sysctl, unix.EACCES, []string{"may not set it", "run it as root"}},
		{"no cure known", create, unix.ENOMEM, []string{"create link vrrp-lan", "cannot allocate memory"}},
		{"other op", op{kind: raisePort, link: "lan0"}, unix.EPERM, []string{"set link lan0 up: operation not permitted"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := explain(tt.op, fmt.Errorf("wrapped: %w", tt.err))
			if !errors.Is(err, tt.err) {
				t.Errorf("%v hides its cause", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(strings.ReplaceAll(err.Error(), "wrapped: ", ""), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

func TestWithCure(t *testing.T) {
	err := withCure(explainNetfilter(unix.EPROTONOSUPPORT), fmt.Errorf("list nftables chains: %w", unix.EPROTONOSUPPORT))
	if !strings.Contains(err.Error(), "load the module nf_tables") || !errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Errorf("error: %v", err)
	}
	if err := withCure(explainNetfilter(unix.EINTR), unix.EINTR); !errors.Is(err, unix.EINTR) || strings.Contains(err.Error(), "load") {
		t.Errorf("error: %v", err)
	}
}
