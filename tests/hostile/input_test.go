package hostile

import "testing"

// TestInput lets everybody at the pair who can send a packet or open a socket, one
// kind after the other. The last ones may move the role.
func TestInput(t *testing.T) {
	pair := newPair(t)
	for _, tt := range []struct {
		name string
		test func(*stand)
	}{
		{"malformed adverts", malformedAdverts},
		{"own address", ownAddress},
		{"heartbeat garbage", heartbeatGarbage},
		{"replication port", replicationPort},
		{"API garbage", apiGarbage},
		{"API refuses", apiRefuses},
		{"elector socket", electorSocket},
		{"socket modes", socketModes},
		{"advert flood", advertFlood},
		{"false goodbye", falseGoodbye},
		{"better stranger", betterStranger},
	} {
		if !t.Run(tt.name, func(t *testing.T) { tt.test(pair.on(t)) }) {
			return // what follows would fail for the same reason
		}
	}
}
