package node_test

import (
	"fmt"
	"testing"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/wal"
)

// TestSeedReport is the report that this project began with: a founder alone
// commits 22 entries, adds two members with empty disks, and they crash with
// "to_commit 23 is out of range [last_index 0]". Here they are brought to life
// by the leader's first snapshot. Each of the report's seven criteria is named
// as it is met.
func TestSeedReport(t *testing.T) {
	for name, log := range bothLogs {
		t.Run(name, func(t *testing.T) { seedReport(t, log) })
	}
}

func seedReport(t *testing.T, log wal.Backend) {
	newMember := func(t *testing.T, id uint64) *member {
		m := newMember(t, id)
		m.cfg.WAL, m.cfg.Bootstrap = log, id == 1
		return m
	}
	n1 := newMember(t, 1).start()
	for i := range 20 {
		propose(t, n1, fmt.Sprintf("command %d", i))
	}
	if st := n1.Status(); st.LastIndex < 22 {
		t.Fatalf("the founder's last index is %d, want at least 22", st.LastIndex)
	}
	t.Log("1. entries created: the founder alone committed index", n1.Status().Commit)

	n2, n3 := newMember(t, 2).start(), newMember(t, 3).start()
	for _, m := range []*member{n2, n3} {
		if st := m.Status(); st.Role != node.Uninitialized || st.Term != 0 {
			t.Fatalf("member %d is %s at term %d with an empty disk", st.ID, st.Role, st.Term)
		}
	}
	add(t, n1, n2)
	add(t, n1, n3)
	t.Log("2. nodes added: voters are", n1.Status().Membership.Voters())

	converged(t, n1, n2, n3)
	want := n1.sm.all()
	for _, m := range []*member{n2, n3} {
		m.close()
		m.start()
		if st := m.Status(); st.LastIndex < 22 {
			t.Fatalf("member %d read the log back from disk up to index %d, want at least 22", m.cfg.ID, st.LastIndex)
		}
	}
	n1.close()
	n1.start()
	if st := n1.Status(); st.LastIndex < 22 {
		t.Fatalf("the founder read the log back from disk up to index %d, want at least 22", st.LastIndex)
	}
	leader(t, n1, n2, n3)
	converged(t, n1, n2, n3)
	for _, m := range []*member{n1, n2, n3} {
		if got := m.sm.all(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("member %d has %q after a restart, want %q", m.cfg.ID, got, want)
		}
	}
	t.Log("3. received and persisted: all members read every entry back from disk")
	t.Logf("4. last index: %d, %d, %d", n1.Status().LastIndex, n2.Status().LastIndex, n3.Status().LastIndex)

	old := leader(t, n1, n2, n3)
	var rest []*member
	for _, m := range []*member{n1, n2, n3} {
		if m != old {
			rest = append(rest, m)
		}
	}
	old.kill()
	now := leader(t, rest...)
	t.Log("5. failover: the leader", old.cfg.ID, "was killed and another one leads")
	t.Log("6. elected without help: member", now.cfg.ID, "at term", now.Status().Term)

	for _, m := range rest {
		propose(t, m, fmt.Sprintf("after the failover, through %d", m.cfg.ID))
	}
	old.start()
	leader(t, n1, n2, n3)
	converged(t, n1, n2, n3)
	if got := len(old.sm.all()); got != 22 {
		t.Fatalf("the old leader caught up to %d commands, want 22", got)
	}
	t.Log("7. operation continues: writes went on, and the old leader caught up to index", old.Status().Applied)
}
