package netns

import (
	"testing"

	"tandem/appliance/lab"
)

// TestStopIsClean stops nodes in order after lives of all kinds. Nothing of
// Tandem's may be left in the kernel, and nothing of anybody else's be touched.
func TestStopIsClean(t *testing.T) {
	s := newStand(t)
	before, foreign := make(map[string][]string), make(map[string][]string)
	for _, node := range nodes() {
		foreign[node] = s.addForeign(node)
		before[node] = s.dump(node)
	}
	s.start(nodes()...)
	s.ready()
	flows := s.traffic(lightLoad())

	// The MASTER hands over first, so that nothing is felt.
	first, second := s.roles()
	flows.mark()
	s.stop(first)
	s.restored(first, before[first])
	s.becomes(second, roleMaster)
	s.pass(aWhile)
	flows.undisturbed()
	s.start(first)
	s.ready()

	// A node that was killed has left everything behind; its successor takes it over.
	s.inject(lab.Crash, second)
	s.becomes(first, roleMaster)
	s.keeps(second, foreign[second])
	s.heal(lab.Crash, second)
	s.ready()
	s.keeps(second, foreign[second])
	flows.report()
	s.stop(second)
	s.restored(second, before[second])
	s.start(second)
	s.ready()

	// A node process that has adopted its elector ends that, too.
	s.killNode(first)
	s.restart(first)
	s.ready()
	flows.mark()
	s.stop(first)
	s.restored(first, before[first])
	s.becomes(second, roleMaster)
	flows.undisturbed()

	// Nobody is there to hand over to.
	s.keeps(second, foreign[second])
	s.stop(second)
	s.restored(second, before[second])
}
