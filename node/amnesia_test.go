package node_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/raftstore"
)

// filled is a cluster of three that has a few entries.
func filled(t *testing.T) []*member {
	t.Helper()
	ms := cluster(t, 3)
	for i := range 20 {
		propose(t, ms[0], fmt.Sprint("entry ", i))
	}
	converged(t, ms...)
	return ms
}

// A voter that comes back with an empty disk under its old ID ends with ErrAmnesia,
// whether it asks to join or waits to be spoken to. The others go on, and are told.
func TestWipedDisk(t *testing.T) {
	for _, how := range []string{"waits", "joins"} {
		t.Run(how, func(t *testing.T) {
			ms := filled(t)
			ms[2].kill()
			ms[2].cfg.Dir = t.TempDir()
			if how == "joins" {
				ms[2].cfg.Join = []string{ms[0].addr, ms[1].addr}
			}
			ms[2].start()
			<-ms[2].Done()
			if err := ms[2].Err(); !errors.Is(err, node.ErrAmnesia) {
				t.Errorf("it ends with %v, want ErrAmnesia", err)
			}
			leader(t, ms[:2]...)
			propose(t, ms[0], "without it")
		})
	}
}

// loseLog takes the log of a member that does not run.
func loseLog(t *testing.T, m *member) {
	t.Helper()
	for _, dir := range []string{"wal", "snap"} {
		if err := os.RemoveAll(filepath.Join(m.cfg.Dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
}

// withoutNote leaves a member that lost its log the identity that an older program wrote,
// which says of no log.
func withoutNote(t *testing.T, m *member) {
	t.Helper()
	edit := func(do func(s *raftstore.Store)) {
		s, _, _, err := raftstore.Open(raftstore.Options{Dir: m.cfg.Dir})
		if err != nil {
			t.Fatal(err)
		}
		do(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var id raftstore.Identity
	edit(func(s *raftstore.Store) { id, _ = s.Identity() })
	if err := os.Remove(filepath.Join(m.cfg.Dir, "identity")); err != nil {
		t.Fatal(err)
	}
	id.Cluster = 0
	edit(func(s *raftstore.Store) {
		if err := s.SetIdentity(id); err != nil {
			t.Fatal(err)
		}
	})
}

// A member that lost its log, and kept the identity that an older program wrote, asks to
// join under its old ID. Every member that is asked knows that it acknowledged something, by the leader's records if not
// by its own, and says so; else it would wait outside for as long as this leader leads.
func TestLostLogKeptIdentity(t *testing.T) {
	for _, asked := range []string{"the leader", "a follower"} {
		for _, learner := range []bool{false, true} {
			t.Run(fmt.Sprint(asked, " learner=", learner), func(t *testing.T) {
				ms := filled(t)
				l := leader(t, ms...)
				followers := slices.DeleteFunc(slices.Clone(ms), func(m *member) bool { return m == l })
				lost := followers[1]
				if learner {
					lost = newMember(t, 4).start()
					if _, err := l.AddLearner(timeout(t), node.Member{ID: 4, Address: lost.addr}); err != nil {
						t.Fatal(err)
					}
					converged(t, append(ms, lost)...)
				}
				eventually(t, "its log is known", func() bool { return l.Remembers(lost.cfg.ID) > 0 })
				lost.kill()
				loseLog(t, lost)
				withoutNote(t, lost)
				lost.cfg.Join = []string{l.addr}
				if asked == "a follower" { // which has not led, and remembers nothing
					lost.cfg.Join = []string{followers[0].addr}
				}
				lost.start()
				select {
				case <-lost.Done():
				case <-timeout(t).Done():
					t.Fatalf("it does not end: %+v", lost.Status())
				}
				if err := lost.Err(); !errors.Is(err, node.ErrAmnesia) {
					t.Errorf("it ends with %v, want ErrAmnesia", err)
				}
				propose(t, l, "without it")
			})
		}
	}
}

// A member that lost its log, and kept its identity, knows it by itself. Nobody is asked: the
// others may have forgotten what it acknowledged, as a leader does that was just elected,
// and would take it for a newcomer. What it promised when its cluster was founded does not
// bring it back either.
func TestLostLogAsksNobody(t *testing.T) {
	for _, how := range []string{"joined", "founded together"} {
		t.Run(how, func(t *testing.T) {
			var ms []*member
			if how == "joined" {
				ms = filled(t)
				ms[2].cfg.Join = []string{ms[0].addr, ms[1].addr}
			} else {
				ms = expecting(t)
				for _, m := range ms {
					m.start()
				}
				voters(t, ms...)
				propose(t, ms[0], "kept")
				converged(t, ms...)
			}
			for _, m := range ms {
				m.kill()
			}
			for _, m := range ms { // what the others know of it
				if err := os.RemoveAll(filepath.Join(m.cfg.Dir, "memory")); err != nil {
					t.Fatal(err)
				}
			}
			loseLog(t, ms[2])
			ms[0].start()
			ms[1].start()
			eventually(t, "one of the others leads", func() bool { return ms[0].Status().Leader != 0 && ms[1].Status().Leader != 0 })
			if err := ms[2].tryStart(); !errors.Is(err, node.ErrAmnesia) {
				t.Fatalf("it starts: %v, want ErrAmnesia", err)
			}
			propose(t, ms[0], "without it")
		})
	}
}

// A joiner that was added, and crashed before its first snapshot was on its disk, has
// acknowledged nothing. It asks again, and comes in under its ID.
func TestJoinerAsksAgain(t *testing.T) {
	for asked := range 2 {
		ms := filled(t)
		joiner := newMember(t, 4)
		joiner.start()
		joiner.kill() // its identity is there
		if _, err := ms[0].AddLearner(timeout(t), node.Member{ID: 4, Address: joiner.addr}); err != nil {
			t.Fatal(err)
		}
		joiner.cfg.Join = []string{ms[asked].addr}
		joiner.start()
		converged(t, append(ms, joiner)...)
		if st := ms[0].Status(); len(st.Membership.Members) != 4 {
			t.Errorf("%v; want it under its ID", st.Membership.Members)
		}
	}
}

// A voter whose disk was set back to an older image ends with ErrAmnesia too. It
// votes for nobody who remembers more, as the handshake comes before the vote.
func TestRolledBackDisk(t *testing.T) {
	ms := filled(t)
	old := t.TempDir()
	ms[2].kill()
	if err := os.CopyFS(old, os.DirFS(ms[2].cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	ms[2].start()
	for i := range 20 {
		propose(t, ms[0], fmt.Sprint("more ", i))
	}
	converged(t, ms...)
	ms[2].kill()
	ms[2].cfg.Dir = old
	ms[2].start()
	<-ms[2].Done()
	if err := ms[2].Err(); !errors.Is(err, node.ErrAmnesia) {
		t.Errorf("it ends with %v, want ErrAmnesia", err)
	}
	propose(t, ms[0], "without it")
}

// The same of a leader's disk, of which it told the others itself, also without an
// election in between that it would have missed.
func TestRolledBackLeader(t *testing.T) {
	ms := filled(t)
	l := ms[2]
	old := t.TempDir()
	l.kill()
	if err := os.CopyFS(old, os.DirFS(l.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	l.start()
	if err := l.TransferLeadership(timeout(t), 3); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		propose(t, l, fmt.Sprint("more ", i))
	}
	converged(t, ms...)
	others := ms[:2]
	// A heartbeat later they know of it.
	st := l.Status()
	eventually(t, "it has told", func() bool {
		return others[0].Remembers(l.cfg.ID) >= st.LastIndex && others[1].Remembers(l.cfg.ID) >= st.LastIndex
	})
	l.kill()
	l.cfg.Dir = old
	l.start()
	<-l.Done()
	if err := l.Err(); !errors.Is(err, node.ErrAmnesia) {
		t.Errorf("it ends with %v, want ErrAmnesia", err)
	}
	leader(t, others...)
	propose(t, others[0], "without it")
}

// The disk of a founder is set back to before others joined: by its records it is the only voter.
// Members that it does not know remember more of it, and it ends before it serves a branch for
// long.
func TestFounderFromBeforeOthersJoined(t *testing.T) {
	t.Parallel()
	f := founder(t)
	if _, err := f.Propose(timeout(t), []byte("alone")); err != nil {
		t.Fatal(err)
	}
	f.close()
	image := t.TempDir()
	if err := os.CopyFS(image, os.DirFS(f.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	f.start()
	ms := []*member{f}
	for id := uint64(2); id <= 3; id++ {
		m := newMember(t, id).start()
		ms = append(ms, m)
		add(t, f, m)
	}
	for range 20 {
		if _, err := f.Propose(timeout(t), []byte("together")); err != nil {
			t.Fatal(err)
		}
	}
	f.close()
	f.cfg.Dir = image
	if err := f.tryStart(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-f.Done():
	case <-timeout(t).Done():
		t.Fatalf("it goes on: %+v", f.Status())
	}
	if err := f.Err(); !errors.Is(err, node.ErrOtherCluster) && !errors.Is(err, node.ErrAmnesia) {
		t.Errorf("it ended with %v", err)
	}
	var other *node.OtherClusterError
	if errors.As(f.Err(), &other) && (other.Proof.AtAddress != 1 || len(other.Proof.Members) != 3) {
		t.Errorf("it ended by %+v", other.Proof)
	}
	_ = f.Node.Close()
	f.Node = nil
}

// The disk of a founder is set back to before others joined, and it elects itself and goes on alone
// before they call it. Then it follows their leader, of a later term, whose log contradicts what is
// committed there, and which remembers nothing of it. It asks their majority, and ends: so it is rebuilt.
func TestFounderThatFollowsLaterMembers(t *testing.T) {
	t.Parallel()
	f := founder(t)
	propose(t, f, "alone")
	image := imagesOf(t, []*member{f})[0]
	var others []*member
	for id := uint64(2); id <= 4; id++ {
		m := newMember(t, id).start()
		others = append(others, m)
		add(t, f, m)
	}
	for range 5 {
		propose(t, f, "together")
	}
	f.close()
	for _, m := range others {
		m.close()
		if err := os.Remove(filepath.Join(m.cfg.Dir, "memory")); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	f.cfg.Dir = image
	for range 2 { // in a term that is not that of the others at this place
		f.start()
		propose(t, f, "a branch")
		f.Kill()
	}
	f.start()
	propose(t, f, "a branch")
	for _, m := range others {
		m.start()
	}
	leader(t, others...)
	propose(t, others[0], "without it")
	select {
	case <-f.Done():
	case <-timeout(t).Done():
		t.Fatalf("it goes on: %+v", f.Status())
	}
	if err := f.Err(); !errors.Is(err, node.ErrOtherCluster) && !errors.Is(err, node.ErrDiverged) {
		t.Errorf("it ended with %v", err)
	}
	_ = f.Node.Close()
	f.Node = nil
}

// imagesOf copies the disks of members, which are stopped for that.
func imagesOf(t *testing.T, ms []*member) (images []string) {
	t.Helper()
	for _, m := range ms {
		m.close()
	}
	for _, m := range ms {
		images = append(images, t.TempDir())
		if err := os.CopyFS(images[len(images)-1], os.DirFS(m.cfg.Dir)); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range ms {
		m.start()
	}
	return images
}

// A voter whose disk is set back to before its place and those of others were rebuilt knows one
// of the members that are left, or none. The one proves by a seal that the old self was removed,
// also where the other one is at an address that the disk does not know; where there is none,
// those who came into their places prove it by what the old ones were known by.
func TestImageFromBeforeOthersWereRebuilt(t *testing.T) {
	for _, rebuilt := range []int{2, 3} {
		t.Run(fmt.Sprint(rebuilt), func(t *testing.T) {
			t.Parallel()
			ms := filled(t)
			old := t.TempDir()
			ms[0].kill()
			if err := os.CopyFS(old, os.DirFS(ms[0].cfg.Dir)); err != nil {
				t.Fatal(err)
			}
			cfg := ms[0].cfg
			for i, m := range ms[:rebuilt] {
				if i > 0 {
					m.kill()
				}
				if i == 1 && rebuilt == 2 {
					m.addr, m.cfg.Replaces = newMember(t, 0).addr, 2
				}
				rebuild(t, m, ms[(i+1)%3], ms[(i+2)%3])
			}
			ms[0].kill()
			cfg.Dir = old
			ms[0].cfg = cfg
			ms[0].start()
			<-ms[0].Done()
			if err := ms[0].Err(); !errors.Is(err, node.ErrRemoved) {
				t.Errorf("it ends with %v, want ErrRemoved", err)
			}
			propose(t, ms[2], "without it")
		})
	}
}

// Two of three disks are set back to before their places were rebuilt, and are a majority by their
// records. The third member, which they know, proves that they were removed: they serve nothing.
func TestMajorityFromBeforeItsRebuild(t *testing.T) {
	t.Parallel()
	ms := filled(t)
	var old [2]node.Config
	for i, m := range ms[:2] {
		m.kill()
		old[i] = m.cfg
		old[i].Dir = t.TempDir()
		if err := os.CopyFS(old[i].Dir, os.DirFS(m.cfg.Dir)); err != nil {
			t.Fatal(err)
		}
		m.start()
		converged(t, ms...)
	}
	for i, m := range ms[:2] {
		m.kill()
		rebuild(t, m, ms[(i+1)%3], ms[(i+2)%3])
	}
	propose(t, ms[2], "acknowledged since")
	for _, m := range ms {
		m.kill()
	}
	for i, m := range ms[:2] {
		m.cfg = old[i]
	}
	for _, m := range ms {
		m.start()
	}
	for _, m := range ms[:2] {
		eventually(t, "it is suspended, or has stopped", func() bool {
			return errors.Is(m.Status().Suspended, node.ErrSuspect) || m.Err() != nil
		})
		if _, err := m.ReadBarrier(timeout(t), node.Linearizable); err == nil {
			t.Error("a read is answered without what was acknowledged since")
		}
	}
}

// rebuild has a member that was killed come back without its disk, into its place among three.
func rebuild(t *testing.T, m *member, others ...*member) {
	t.Helper()
	m.cfg.Dir, m.cfg.ID, m.cfg.Bootstrap, m.cfg.Rejoin = t.TempDir(), 0, false, true
	m.cfg.Join = []string{others[0].addr, others[1].addr}
	m.start()
	for _, o := range others {
		eventually(t, "its place is rebuilt", func() bool {
			got := o.Status().Membership
			return len(got.Members) == 3 && slices.Contains(got.Voters(), m.Status().ID)
		})
	}
	converged(t, append(others, m)...)
}
