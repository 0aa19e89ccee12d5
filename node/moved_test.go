package node_test

import (
	"testing"

	"github.com/octopii/octopii/internal/localnet"
)

// A member whose network changed under it is elsewhere, and does not know it. The others moved
// as well, so that it reaches none of them, and they have a leader without it. Its new address is
// in their --join: the leader finds it there, and its record follows it.
func TestMovedWithoutARestart(t *testing.T) {
	t.Parallel()
	network := localnet.New()
	var ms []*member
	for i, address := range []string{"a", "b", "c"} {
		m := newMember(t, uint64(i+1))
		m.network, m.addr = network, address
		m.cfg.Bootstrap = i == 0
		ms = append(ms, m.start())
		if i > 0 {
			add(t, ms[0], m)
		}
	}
	network.Lead("c2", "c")
	network.Lead("c", "nobody")
	for i, address := range []string{"a", "b"} {
		network.Partition("c", address)
		ms[i].kill()
		ms[i].addr, ms[i].cfg.Bootstrap, ms[i].cfg.Join = address+"2", false, []string{"a2", "b2", "c2"}
		ms[i].start()
		propose(t, leader(t, ms[:2]...), "without it")
	}
	eventually(t, "its record follows it", func() bool {
		m, ok := ms[2].Status().Membership.Member(3)
		return ok && m.Address == "c2" && ms[2].Status().Leader != 0
	})
	propose(t, ms[2], "through it")
}
