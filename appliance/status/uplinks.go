package status

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"tandem/router/config"
	"tandem/router/uplink"
)

// Uplink is the state of one uplink on this node.
type Uplink struct {
	Name      string `json:"name"`
	Interface string `json:"interface"`
	Gateway   string `json:"gateway"`
	// GatewayIPv6 is the next hop of IPv6, empty if the uplink has none.
	GatewayIPv6 string `json:"gateway_ipv6,omitempty"`
	// Up tells that the interface is up and has a link; LinkReason why not.
	Up         bool     `json:"up"`
	LinkReason string   `json:"link_reason,omitempty"`
	Addresses  []string `json:"addresses"`
	// Networks are those that may use it, UsedBy those whose new flows take it now.
	Networks []string `json:"networks"`
	UsedBy   []string `json:"used_by"`
	// Cost is the one in force; Metered and Labels are the document's.
	Cost    uint8    `json:"cost"`
	Metered bool     `json:"metered"`
	Labels  []string `json:"labels,omitempty"`
	// Families is the evidence, IPv4 first; empty before the node has begun to look.
	Families []uplink.FamilyStatus `json:"families,omitempty"`
}

// State is that of its best family.
func (u Uplink) State() uplink.State {
	state := uplink.Unknown
	for _, f := range u.Families {
		state = max(state, f.State)
	}
	return state
}

// Network is a network's way to the outside: which uplink it takes, why, and the evidence about
// all that it may take. EVE calls this object Network Instance Test Status.
type Network struct {
	Name      string `json:"name"`
	Interface string `json:"interface"`
	Prefix    string `json:"prefix"`
	Gateway   string `json:"gateway"`
	// PrefixIPv6 and GatewayIPv6 are empty without IPv6.
	PrefixIPv6  string `json:"prefix_ipv6,omitempty"`
	GatewayIPv6 string `json:"gateway_ipv6,omitempty"`
	// Uplinks are those that it may take, as long as they are no dearer than MaxCost.
	Uplinks []string `json:"uplinks"`
	MaxCost uint8    `json:"max_cost"`
	// NATAddresses are what its hosts appear as outside, by uplink; RoutedNATAddress replaces
	// them on all uplinks.
	NATAddresses     map[string]string `json:"nat_addresses,omitempty"`
	RoutedNATAddress string            `json:"routed_nat_address,omitempty"`
	Failback         string            `json:"failback"`
	DrainTime        time.Duration     `json:"drain_time_ns"`
	// Paths are the choices: the default route of each family and every route with uplinks.
	Paths []uplink.PathStatus `json:"paths"`
	// PrivateGateways are the routes that have a next hop of their own.
	PrivateGateways []PrivateGateway `json:"private_gateways,omitempty"`
	// Switches are the newest changes of uplink, the newest first.
	Switches []Switch `json:"switches,omitempty"`
	// Forwards and StaticNAT count what lets the outside in.
	Forwards  int `json:"forwards"`
	StaticNAT int `json:"static_nat"`
	// Ingress and Egress are the access lists.
	Ingress AccessList `json:"ingress"`
	Egress  AccessList `json:"egress"`
	// RateLimit is empty if there is none.
	RateLimit string `json:"rate_limit,omitempty"`
}

// PrivateGateway is a route of a network that does not choose.
type PrivateGateway struct {
	Destination string `json:"destination"`
	Via         string `json:"via"`
}

// AccessList sums up one direction of a network's access list.
type AccessList struct {
	Default string `json:"default"`
	Rules   int    `json:"rules"`
}

// Switch is a change of the uplink of a network, or of one of its routes.
type Switch struct {
	Time        time.Time `json:"time"`
	Network     string    `json:"network"`
	Destination string    `json:"destination"`
	// From is empty for the first choice, To if there is no uplink any more.
	From string `json:"from"`
	To   string `json:"to"`
	// Planned tells that the flows on From may stay there for a while.
	Planned bool   `json:"planned"`
	Reason  string `json:"reason"`
	// Took is the time from when the failure was noticed until the kernel sent new flows by To;
	// zero if nothing had failed.
	Took time.Duration `json:"took_ns"`
}

// SwitchOf completes a switch that the selector made by when the kernel had followed.
func SwitchOf(s uplink.Switch, followed time.Time) Switch {
	done := Switch{
		Time: s.At, Network: s.Path.Network, Destination: s.Path.Destination.String(), From: s.From, To: s.To, Planned: s.Planned, Reason: s.Reason,
	}
	if !s.FailedAt.IsZero() {
		done.Took = max(0, followed.Sub(s.FailedAt))
	}
	return done
}

// rememberedSwitches is how many switches of a network are shown.
const rememberedSwitches = 10

// Switches remembers the newest switches of each network. The zero value remembers none.
type Switches struct {
	byNetwork map[string][]Switch
}

// Add remembers a switch.
func (h *Switches) Add(s Switch) {
	if h.byNetwork == nil {
		h.byNetwork = make(map[string][]Switch)
	}
	list := append([]Switch{s}, h.byNetwork[s.Network]...)
	h.byNetwork[s.Network] = list[:min(len(list), rememberedSwitches)]
}

// Of returns the newest switches of a network, the newest first.
func (h *Switches) Of(network string) []Switch { return slices.Clone(h.byNetwork[network]) }

// UplinksOf joins what the document says of the uplinks with what node knows of them.
func UplinksOf(doc *config.Document, node string, known uplink.Status) []Uplink {
	var list []Uplink
	may, do := usersOf(doc, known)
	for _, u := range doc.Uplinks {
		s := Uplink{
			Name: u.Name, Interface: u.Ports[node].Interface, Gateway: u.Gateway.String(), Addresses: texts(u.Addresses),
			Cost: u.Cost, Metered: u.Metered, Labels: u.Labels,
		}
		if u.IPv6 != nil {
			s.GatewayIPv6 = u.IPv6.Gateway.String()
			s.Addresses = append(s.Addresses, texts(u.IPv6.Addresses)...)
		}
		for _, v := range u.VirtualRouters {
			s.Addresses = append(s.Addresses, texts(v.Addresses)...)
		}
		if i := slices.IndexFunc(known.Uplinks, func(k uplink.Evidence) bool { return k.Name == u.Name }); i >= 0 {
			k := known.Uplinks[i]
			s.Up, s.LinkReason, s.Cost, s.Families = k.Link, k.LinkReason, k.Cost, k.Families
		}
		s.Networks, s.UsedBy = may[u.Name], do[u.Name]
		list = append(list, s)
	}
	return list
}

// usersOf returns, by uplink, the networks that may use it and those that do.
func usersOf(doc *config.Document, known uplink.Status) (may, do map[string][]string) {
	may, do = map[string][]string{}, map[string][]string{}
	add := func(users map[string][]string, name, network string) {
		if list := users[name]; len(list) == 0 || list[len(list)-1] != network {
			users[name] = append(list, network)
		}
	}
	for _, w := range doc.Networks {
		for _, name := range w.Uplinks {
			add(may, name, w.Name)
		}
		for _, r := range w.Routes {
			for _, name := range r.Uplinks {
				add(may, name, w.Name)
			}
		}
	}
	for _, p := range known.Paths {
		if p.Uplink != "" {
			add(do, p.Uplink, p.Network)
		}
	}
	return may, do
}

// NetworksOf joins what the document says of the networks with what node knows of their ways
// to the outside.
func NetworksOf(doc *config.Document, node string, known uplink.Status, switches *Switches) []Network {
	var list []Network
	paths := map[string][]uplink.PathStatus{}
	for _, p := range known.Paths {
		paths[p.Network] = append(paths[p.Network], p)
	}
	for _, w := range doc.Networks {
		s := Network{
			Name: w.Name, Interface: w.Ports[node].Interface, Prefix: w.Prefix.String(), Gateway: w.Gateway.String(),
			Uplinks: w.Uplinks, MaxCost: w.MaxCost, Failback: w.Failback, DrainTime: w.DrainTime, Paths: slices.Concat([]uplink.PathStatus{}, paths[w.Name]),
			Switches: switches.Of(w.Name), Forwards: len(w.Forwards), StaticNAT: len(w.StaticNAT),
			Ingress: AccessList{w.Access.Ingress.Default, len(w.Access.Ingress.Rules)},
			Egress:  AccessList{w.Access.Egress.Default, len(w.Access.Egress.Rules)},
		}
		if w.IPv6 != nil {
			s.PrefixIPv6, s.GatewayIPv6 = w.IPv6.Prefix.String(), w.IPv6.Gateway.String()
		}
		if w.RoutedNATAddress.IsValid() {
			s.RoutedNATAddress = w.RoutedNATAddress.String()
		}
		for _, name := range slices.Sorted(maps.Keys(w.NATAddresses)) {
			if s.NATAddresses == nil {
				s.NATAddresses = make(map[string]string, len(w.NATAddresses))
			}
			s.NATAddresses[name] = w.NATAddresses[name].String()
		}
		if w.RateLimit > 0 {
			s.RateLimit = w.RateLimit.String()
		}
		for _, r := range w.Routes {
			if r.Via.IsValid() {
				s.PrivateGateways = append(s.PrivateGateways, PrivateGateway{r.Destination.String(), r.Via.String()})
			}
		}
		list = append(list, s)
	}
	return list
}

func texts(addresses []netip.Addr) []string {
	var list []string
	for _, a := range addresses {
		list = append(list, a.String())
	}
	return list
}

// OperationUplinks is the answer to which uplinks an operation may use now.
type OperationUplinks struct {
	Operation string `json:"operation"`
	// Uplinks are all there are: those that it may use, the best one first, then the others.
	Uplinks []uplink.Use `json:"uplinks"`
}

// Usable tells whether there is any.
func (o OperationUplinks) Usable() bool {
	return slices.ContainsFunc(o.Uplinks, func(u uplink.Use) bool { return u.Usable })
}
