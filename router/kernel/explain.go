package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// explain turns an error number of the kernel into what is missing and what to do.
func explain(o op, err error) error {
	var what string
	switch o.kind {
	case createLink:
		what = explainMacvlan(o.virtual.Parent, err)
	case replaceTable:
		what = explainTable(o.family, o.value, err)
	case setSysctl:
		what = explainSysctl(err)
	case raisePort, raiseLink, deleteAddress, deleteLink, addAddress, markLink, putUpFence, deleteTable, putRoute, addRule, deleteRule, deleteRoute:
	}
	if what == "" {
		return fmt.Errorf("%s: %w", o, err)
	}
	return fmt.Errorf("%s: %s: %w", o, what, err)
}

func explainMacvlan(parent string, err error) string {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return "this kernel has no macvlan, load the module macvlan (CONFIG_MACVLAN)"
	case errors.Is(err, unix.EBUSY):
		return parent + " is the port of a bridge or a bond, take it out or name the bridge in the document"
	case errors.Is(err, unix.EINVAL):
		return parent + " is no Ethernet interface that a macvlan can stand on, name another in the document"
	}
	return ""
}

func explainTable(f family, name string, err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Sprintf("another program owns a table of this name, find it with `nft list table %s %s` and stop it", f.table(), name)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return "this kernel lacks a part of nftables, load the modules nft_ct, nft_nat and nft_chain_nat (CONFIG_NFT_CT, CONFIG_NFT_NAT)"
	}
	return explainNetfilter(err)
}

func explainNetfilter(err error) string {
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EAFNOSUPPORT) {
		return "this kernel has no nftables, load the module nf_tables (CONFIG_NF_TABLES)"
	}
	return ""
}

func explainSysctl(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "/proc/sys is read-only here, as containers have it: run the container with --privileged, or set it outside"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "this process may not set it, run it as root of the network namespace"
	}
	return ""
}

// withCure puts what to do before an error, if there is something.
func withCure(what string, err error) error {
	if what == "" {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}
