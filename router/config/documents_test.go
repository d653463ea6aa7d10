package config_test

const (
	keyA = "tandem-p256:MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEL/dAlgiWPhp4ShAZgaCQkYGUAtBajx7idrXWFkrhY4Eq0nJwe9ZTu3vp+uAvy3HGd5yTSTaGbl7JUasjhq/voA=="
	keyB = "tandem-p256:MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEwDttiTbB6YORTPUwRbSL2oDXRA/CO1B+O68PJ16bowuVtw3LL8c/tT/oLir+ltYZiHbDXvnEAv5HRYrQx69ZEw=="
)

// single is a router with one member.
const single = `version: 1
group: solo
members:
  - name: solo
uplinks:
  - name: wan
    vrid: 1
    prefix: 192.0.2.0/24
    gateway: 192.0.2.1
    addresses: [192.0.2.10]
    ports:
      solo: {interface: eth0, address: 192.0.2.2}
networks:
  - name: lan
    vrid: 2
    prefix: 10.0.0.0/24
    gateway: 10.0.0.1
    uplink: wan
    ports:
      solo: {interface: eth1, address: 10.0.0.2}
`

// pairJSON is a pair in JSON, indented with tabs.
const pairJSON = `{
	"version": 1,
	"group": "edge",
	"election": {"advertisement_interval": "50ms", "preempt": true},
	"members": [
		{"name": "alpha", "priority": 254, "public_key": "` + keyA + `"},
		{"name": "bravo", "priority": 100, "public_key": "` + keyB + `"}
	],
	"ha_link": {
		"vrid": 255,
		"prefix": "10.255.0.0\/30",
		"port": 4000,
		"ports": {
			"alpha": {"interface": "ha0", "address": "10.255.0.1"},
			"bravo": {"interface": "ha0", "address": "10.255.0.2"}
		}
	},
	"networks": [
		{
			"name": "l\u0061n",
			"vrid": 7,
			"prefix": "10.0.0.0/24",
			"gateway": "10.0.0.254",
			"ports": {
				"alpha": {"interface": "eth0", "address": "10.0.0.1"},
				"bravo": {"interface": "eth1", "address": "10.0.0.2"}
			}
		}
	]
}
`

// pair is what the tests of the validation spoil.
const pair = `version: 1
group: edge
members:
  - name: alpha
    public_key: ` + keyA + `
  - name: bravo
    public_key: ` + keyB + `
ha_link:
  vrid: 1
  prefix: 10.255.0.0/30
  ports:
    alpha: {interface: eth0, address: 10.255.0.1}
    bravo: {interface: eth0, address: 10.255.0.2}
uplinks:
  - name: wan
    vrid: 2
    prefix: 192.0.2.0/24
    gateway: 192.0.2.1
    addresses: [192.0.2.10, 192.0.2.11]
    ports:
      alpha: {interface: eth1, address: 192.0.2.2}
      bravo: {interface: eth1, address: 192.0.2.3}
networks:
  - name: lan
    vrid: 3
    prefix: 10.0.0.0/24
    gateway: 10.0.0.1
    ports:
      alpha: {interface: eth2, address: 10.0.0.2}
      bravo: {interface: eth2, address: 10.0.0.3}
    uplink: wan
    nat_address: 192.0.2.11
`
