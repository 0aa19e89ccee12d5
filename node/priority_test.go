package node_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/octopii/octopii/node"
)

// A member that joins with a higher priority than the leader's leads once it votes
// and is close behind, also after it was away.
func TestPriorityTakesOver(t *testing.T) {
	a := founder(t)
	b, c := newMember(t, 2), newMember(t, 3)
	b.cfg.Priority = 7
	for _, m := range []*member{b, c} {
		m.cfg.Join = []string{a.addr}
		m.start()
	}
	leads := func() {
		t.Helper()
		eventually(t, "the one of the highest priority leads three voters", func() bool {
			st := b.Status()
			return st.Role == node.Leader && len(st.Membership.Voters()) == 3
		})
	}
	leads()
	if m, _ := b.Status().Membership.Member(2); m.Priority != 7 {
		t.Errorf("its record has the priority %d, want 7", m.Priority)
	}
	propose(t, c, "one")
	b.close()
	leader(t, a, c)
	propose(t, c, "two")
	b.start()
	leads()
	propose(t, a, "three")
	converged(t, a, b, c)
}

// A transfer of leadership for which there is nobody says so at once.
func TestTransferToNobody(t *testing.T) {
	a := founder(t)
	if _, err := a.AddLearner(timeout(t), node.Member{ID: 2, Address: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	for to, want := range map[uint64]string{0: "no other voter is alive", 2: "is a learner", 9: "no member 9"} {
		err := a.TransferLeadership(timeout(t), to)
		if !errors.Is(err, node.ErrNoTarget) || !strings.Contains(err.Error(), want) {
			t.Errorf("transfer to %d: %v, want ErrNoTarget: %s", to, err, want)
		}
	}
	if err := a.TransferLeadership(timeout(t), 1); err != nil {
		t.Errorf("transfer to the one that leads: %v", err)
	}
}
