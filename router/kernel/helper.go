package kernel

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"tandem/router"
)

const (
	// lookAgain is how often a helper is looked for that this kernel lacks: each time
	// it tries to load the module.
	lookAgain = time.Minute
	// loadTime bounds the loading of modules.
	loadTime = 5 * time.Second
)

// helperKey is what the kernel knows a helper by.
type helperKey struct {
	name     string
	family   family
	protocol uint8
}

// helperFound tells what became of looking for a helper, and when.
type helperFound struct {
	at  time.Time
	err error
}

func keyOf(h router.Helper) helperKey { return helperKey{h.Name, family(h.IPv6), h.Protocol} }

// transport is the word of nft for a helper's protocol.
func transport(h router.Helper) string {
	if h.Protocol == unix.IPPROTO_UDP {
		return "udp"
	}
	return "tcp"
}

// helperName is the name of a helper's object, without the dots that nft would not
// read back.
func helperName(h router.Helper) string {
	return strings.ToLower(strings.ReplaceAll(h.Name, ".", "")) + "-" + transport(h)
}

func helperObject(t *nftables.Table, h router.Helper) *nftables.NamedObj {
	return &nftables.NamedObj{
		Table: t, Name: helperName(h), Type: nftables.ObjTypeCtHelper,
		Obj: &expr.CtHelper{Name: h.Name, L4Proto: h.Protocol},
	}
}

// helpersOf returns the helpers of one family.
func helpersOf(intent router.Intent, f family) []router.Helper {
	return without(intent.Helpers, func(h router.Helper) bool { return family(h.IPv6) != f })
}

// attachments give new flows from networks to the port of a helper that helper. It must
// be there before the flow is translated, or the kernel reserves no room for what the
// helper does to sequence numbers.
func attachments(intent router.Intent, f family) []filterRule {
	var rules []filterRule
	for _, h := range helpersOf(intent, f) {
		rules = append(rules, filterRule{
			text: fmt.Sprintf("iifname { %s } %s dport %d ct helper set %s", strings.Join(h.Links, ", "), transport(h), h.Port, helperName(h)),
			steps: []matchStep{oneOf(expr.MetaKeyIIFNAME, h.Links), {exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals(h.Protocol),
				payload(expr.PayloadBaseTransportHeader, 2, 2), equals(binaryutil.BigEndian.PutUint16(h.Port)...),
			}}},
			action: []expr.Any{&expr.Objref{Type: int(nftables.ObjTypeCtHelper), Name: helperName(h)}},
		})
	}
	return rules
}

// silent keeps the kernel from reporting the flows of networks that are not replicated:
// the reports would cost more than the flows.
func silent(intent router.Intent, s sides) []filterRule {
	var links []string
	for _, u := range intent.Unreplicated {
		for _, link := range u.Links {
			if slices.Contains(s.all, link) && !slices.Contains(links, link) {
				links = append(links, link)
			}
		}
	}
	if len(links) == 0 {
		return nil
	}
	var rules []filterRule
	for _, side := range []struct {
		field string
		key   expr.MetaKey
	}{{"iifname", expr.MetaKeyIIFNAME}, {"oifname", expr.MetaKeyOIFNAME}} {
		rules = append(rules, filterRule{
			text:  side.field + " { " + strings.Join(links, ", ") + " } ct event set 0",
			steps: []matchStep{oneOf(side.key, links)},
			action: []expr.Any{
				&expr.Immediate{Register: register, Data: make([]byte, 4)},
				&expr.Ct{Key: expr.CtKeyEVENTMASK, Register: register, SourceRegister: true},
			},
		})
	}
	return rules
}

// withHelpers returns an intent without the helpers that this kernel lacks, and a
// sentence about each application that is affected.
func (r *Reconciler) withHelpers(in router.Intent) (router.Intent, []string) {
	var lacking []string
	in.Helpers = without(in.Helpers, func(h router.Helper) bool {
		err := r.lookFor(h)
		if err == nil {
			return false
		}
		if say := explainHelper(h, err); !slices.Contains(lacking, say) {
			lacking = append(lacking, say)
		}
		return true
	})
	return in, lacking
}

func explainHelper(h router.Helper, err error) string {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Sprintf("helper %s is left out: this kernel does not have it; load the modules nf_conntrack_%[1]s and nf_nat_%[1]s, "+
			"or take it out of the document", h.Application)
	}
	return fmt.Sprintf("helper %s is left out: the kernel refuses it: %v", h.Application, err)
}

// lookFor tells whether the kernel has a helper. What stands in a table stays loaded,
// so that it need not be looked for again.
func (r *Reconciler) lookFor(h router.Helper) error {
	key := keyOf(h)
	if found, ok := r.helpers[key]; ok && (found.err == nil || time.Since(found.at) < lookAgain) {
		return found.err
	}
	// The kernel itself loads what reads connections, but not what translates them.
	loadModules("nf_conntrack_"+h.Application, "nf_nat_"+h.Application)
	// An object in a table that goes in the same transaction leaves nothing.
	t := &nftables.Table{Family: key.family.netfilter(), Name: tableName(r.group) + "-helper"}
	r.nft.AddTable(t)
	r.nft.AddObj(helperObject(t, h))
	r.nft.DelTable(t)
	err := r.renew(r.nft.Flush())
	r.helpers[key] = helperFound{time.Now(), err}
	return err
}

// loadModules loads what it can. Parts of the kernel that are not modules, and kernels
// without any, are no failure.
func loadModules(names ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	_ = exec.CommandContext(ctx, "modprobe", append([]string{"-q", "-a"}, names...)...).Run()
}
