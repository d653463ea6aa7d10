package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"text/template"
	"time"
)

// documentTemplate is the pair's document; package config has its types.
const documentTemplate = `version: 1
group: lab
election:
{{- if .Interval}}
  advertisement_interval: {{.Interval}}
{{- end}}
  preempt: {{.Preempt}}
{{- range .Election}}
  {{.}}
{{- end}}
members:
{{- range .Members}}
  - name: {{.Name}}
    public_key: {{printf "%q" .PublicKey}}
{{- end}}
ha_link:
  vrid: 30
  prefix: 10.255.0.0/30
  ports:
    alpha: {interface: ha0, address: 10.255.0.1}
    bravo: {interface: ha0, address: 10.255.0.2}
{{- if .SecondHALink}}
second_ha_link:
  vrid: 31
  prefix: 10.255.1.0/30
  ports:
    alpha: {interface: ha1, address: 10.255.1.1}
    bravo: {interface: ha1, address: 10.255.1.2}
{{- end}}
uplinks:
  - name: wan
    vrid: 20
    prefix: 203.0.113.0/24
    gateway: {{.UplinkGateway}}
    addresses: [{{.NATAddress}}]
    ports:
      alpha: {interface: wan0, address: 203.0.113.11{{if and .IPv6 .SecondUplink}}, ipv6: "2001:db8:14::11"{{end}}}
      bravo: {interface: wan0, address: 203.0.113.12{{if and .IPv6 .SecondUplink}}, ipv6: "2001:db8:14::12"{{end}}}
{{- if .IPv6}}
    ipv6: {prefix: 2001:db8:14::/64, gateway: {{.UplinkGatewayIPv6}}}
{{- end}}
{{- range .WAN}}
    {{.}}
{{- end}}
{{- if .SecondUplink}}
  - name: lte
    vrid: 40
    prefix: 192.0.2.0/24
    gateway: {{.SecondUplinkGateway}}
    addresses: [{{.SecondNATAddress}}]
    cost: 10
    ports:
      alpha: {interface: lte0, address: 192.0.2.11{{if .IPv6}}, ipv6: "2001:db8:28::11"{{end}}}
      bravo: {interface: lte0, address: 192.0.2.12{{if .IPv6}}, ipv6: "2001:db8:28::12"{{end}}}
{{- if .IPv6}}
    ipv6: {prefix: 2001:db8:28::/64, gateway: {{.SecondUplinkGatewayIPv6}}, addresses: ["{{.SecondNATAddressIPv6}}"], translate: nat66}
{{- end}}
{{- range .LTE}}
    {{.}}
{{- end}}
{{- end}}
networks:
  - name: lan
    vrid: 10
    prefix: 10.0.0.0/24
    gateway: {{.ClientGateway}}
    ports:
      alpha: {interface: lan0, address: 10.0.0.2}
      bravo: {interface: lan0, address: 10.0.0.3}
    {{.Uplinks}}
{{- if .IPv6}}
    ipv6: {prefix: 2001:db8:a::/64, gateway: {{.ClientGatewayIPv6}}}
{{- end}}
{{- range .LAN}}
    {{.}}
{{- end}}
{{- if .SecondNetwork}}
  - name: dmz
    vrid: 50
    prefix: 10.1.0.0/24
    gateway: {{.GuestGateway}}
    ports:
      alpha: {interface: dmz0, address: 10.1.0.2}
      bravo: {interface: dmz0, address: 10.1.0.3}
    {{.GuestUplinks}}
{{- range .DMZ}}
    {{.}}
{{- end}}
{{- end}}
`

type documentMember struct{ Name, PublicKey string }

type documentValues struct {
	Interval                                 time.Duration
	Preempt                                  bool
	Members                                  []documentMember
	ClientGateway, UplinkGateway, NATAddress string
	IPv6, SecondHALink                       bool
	ClientGatewayIPv6, UplinkGatewayIPv6     string
	SecondUplink, SecondNetwork              bool
	SecondUplinkGateway, SecondNATAddress    string
	SecondUplinkGatewayIPv6, GuestGateway    string
	SecondNATAddressIPv6                     string
	// Uplinks and GuestUplinks are the lines that say which uplinks a network may take.
	Uplinks, GuestUplinks        string
	LAN, DMZ, WAN, LTE, Election []string
}

// writeDocument makes both nodes' keys and the document that pins them.
func (l *Lab) writeDocument(ctx context.Context) error {
	values := documentValues{
		Interval:      l.options.Interval,
		Preempt:       l.options.Preempt,
		ClientGateway: ClientGateway,
		UplinkGateway: UplinkGateway,
		NATAddress:    NATAddress,
		SecondHALink:  l.options.SecondHALink,
		IPv6:          l.options.IPv6, ClientGatewayIPv6: ClientGatewayIPv6, UplinkGatewayIPv6: UplinkGatewayIPv6,
		SecondUplink: l.options.SecondUplink, SecondNetwork: l.options.SecondNetwork,
		SecondUplinkGateway: SecondUplinkGateway, SecondNATAddress: SecondNATAddress,
		SecondUplinkGatewayIPv6: SecondUplinkGatewayIPv6, GuestGateway: GuestGateway, SecondNATAddressIPv6: SecondNATAddressIPv6,
		Uplinks: "uplink: wan", GuestUplinks: "uplink: wan",
		LAN: l.options.LAN, DMZ: l.options.DMZ, WAN: l.options.WAN, LTE: l.options.LTE, Election: l.options.Election,
	}
	if l.options.SecondUplink {
		values.Uplinks, values.GuestUplinks = "uplinks: [wan, lte]", "uplink: lte"
	}
	if l.options.GuestUplinks != "" {
		values.GuestUplinks = l.options.GuestUplinks
	}
	for _, node := range nodeNames() {
		key, err := l.makeKey(ctx, node)
		if err != nil {
			return err
		}
		values.Members = append(values.Members, documentMember{Name: node, PublicKey: key})
	}
	document, err := renderDocument(values)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.ConfigPath(), document, 0o600); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	return nil
}

func renderDocument(values documentValues) ([]byte, error) {
	parsed, err := template.New("document").Parse(documentTemplate)
	if err != nil {
		return nil, fmt.Errorf("parse template of the document: %w", err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, values); err != nil {
		return nil, fmt.Errorf("render document: %w", err)
	}
	return out.Bytes(), nil
}

// makeKey has the program under test make a key and returns the public one.
func (l *Lab) makeKey(ctx context.Context, node string) (string, error) {
	path := l.KeyPath(node)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("remove old key: %w", err)
	}
	cmd := exec.CommandContext(ctx, l.options.Binary, "keygen", "--out", path)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s keygen --out %s: %w: %s", l.options.Binary, path, err, strings.TrimSpace(complaint.String()))
	}
	key := strings.TrimSpace(string(out))
	if key == "" || strings.ContainsAny(key, "\r\n") {
		return "", fmt.Errorf("run %s keygen --out %s: printed %q, want one line with the public key", l.options.Binary, path, out)
	}
	return key, nil
}
