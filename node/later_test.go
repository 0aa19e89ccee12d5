package node_test

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/node"
)

// setBack are two members whose disks were set back to before a third one joined.
type setBack struct {
	t       *testing.T
	network *localnet.Network
	// old are the two, and third is the one that joined later. None of them runs.
	old   []*member
	third *member
	// committed is what the third one had committed, in term, and before what the images have.
	committed, term, before uint64
}

// setBackBeforeJoin makes them. The third one has led last, terms times in turn.
func setBackBeforeJoin(t *testing.T, terms int) *setBack {
	t.Helper()
	s := &setBack{t: t, network: localnet.New()}
	for id := uint64(1); id <= 3; id++ {
		m := newMember(t, id)
		m.network, m.addr, m.cfg.Bootstrap = s.network, fmt.Sprint("m", id), id == 1
		s.old = append(s.old, m)
	}
	s.third, s.old = s.old[2], s.old[:2]
	s.old[0].start()
	add(t, s.old[0], s.old[1].start())
	propose(t, s.old[0], "before")
	s.before = s.old[0].Status().LastIndex
	images := imagesOf(t, s.old)
	add(t, leader(t, s.old...), s.third.start())
	for range 20 {
		propose(t, leader(t, s.old...), "together")
	}
	all := append(s.old[:2:2], s.third)
	for range terms {
		for _, to := range []uint64{1, 3} {
			if err := leader(t, all...).TransferLeadership(timeout(t), to); err != nil {
				t.Fatal(err)
			}
		}
	}
	propose(t, s.third, "the last")
	converged(t, all...)
	s.committed, s.term = s.third.Status().Applied, leader(t, all...).Status().Term
	for i, m := range all {
		m.close()
		if i < 2 {
			m.cfg.Dir = images[i]
		}
	}
	return s
}

// goOn starts the two, which acknowledge a branch of later terms than those of the third one:
// neither of them votes for it any more.
func (s *setBack) goOn() {
	s.t.Helper()
	for {
		for _, m := range s.old {
			m.start()
		}
		propose(s.t, leader(s.t, s.old...), "a branch")
		if leader(s.t, s.old...).Status().Term > s.term {
			converged(s.t, s.old...)
			return
		}
		for _, m := range s.old {
			m.close()
		}
	}
}

// missing is the range of entries that an error names.
var missing = regexp.MustCompile(`entries (\d+) to (\d+) of it are missing here`)

// refuse waits until both serve nothing, and checks what writes and linearizable reads say.
func (s *setBack) refuse() {
	t := s.t
	t.Helper()
	for _, m := range s.old {
		eventually(t, fmt.Sprintf("member %d serves nothing", m.cfg.ID), func() bool { return m.Status().Suspended != nil })
		_, wrote := m.Propose(timeout(t), []byte("refused"))
		_, read := m.ReadBarrier(timeout(t), node.Linearizable)
		for what, err := range map[string]error{"a write": wrote, "a read": read, "its status": m.Status().Suspended} {
			if !errors.Is(err, node.ErrSuspect) {
				t.Errorf("member %d: %s: %v; want ErrSuspect", m.cfg.ID, what, err)
				continue
			}
			found := missing.FindStringSubmatch(err.Error())
			if found == nil {
				t.Errorf("member %d: %s does not name what is missing: %v", m.cfg.ID, what, err)
				continue
			}
			// Members that are closed hand over, which is a few entries more, and terms do not tell the first
			// entries of two branches apart.
			from, _ := strconv.ParseUint(found[1], 10, 64)
			to, _ := strconv.ParseUint(found[2], 10, 64)
			if from <= s.before || from > to || to < s.committed || to > s.committed+10 {
				t.Errorf("member %d: %s says that %d to %d are missing; the images end at %d, and %d was committed", m.cfg.ID, what, from, to, s.before, s.committed)
			}
		}
	}
}

// restart starts the two anew.
func (s *setBack) restart(acceptLoss bool) {
	for _, m := range s.old {
		m.close()
	}
	for _, m := range s.old {
		m.cfg.AcceptLoss = acceptLoss
		m.start()
	}
}

// Two of three disks are set back to before the third member joined. By their records they are
// all, and they go on; when the third one is there it proves what they forgot, and they serve
// nothing, until an operator gives up what it has. That counts for all later starts. The third one
// is refused, and comes back without its disk.
func TestMajorityFromBeforeOneJoined(t *testing.T) {
	t.Parallel()
	s := setBackBeforeJoin(t, 0)
	s.goOn()
	s.third.start()
	s.refuse()
	said := []func(string) bool{observed(s.old[0]), observed(s.old[1])}
	s.third.close()
	s.restart(true)
	propose(t, leader(t, s.old...), "without it")
	var refusedThird atomic.Bool
	s.third.cfg.Events = node.Events{PeerRefused: func(uint64, error) { refusedThird.Store(true) }}
	s.third.start()
	eventually(t, "both gave up what the third one has", func() bool { return said[0]("LOSS ACCEPTED") && said[1]("LOSS ACCEPTED") })
	propose(t, leader(t, s.old...), "still without it")
	s.restart(false)
	eventually(t, "the third one hears that it was given up", func() bool { return refusedThird.Load() })
	propose(t, leader(t, s.old...), "for good")
	for _, m := range s.old {
		takesTurns(t, m, 50)
		if err := m.Status().Suspended; err != nil {
			t.Error(err)
		}
	}
	s.third.close()
	s.third.cfg.Dir, s.third.cfg.ID, s.third.cfg.Join = t.TempDir(), 0, []string{s.old[0].addr, s.old[1].addr}
	s.third.start()
	converged(t, append(s.old, s.third)...)
	eventually(t, "it is a voter again", func() bool { return len(s.old[0].Status().Membership.Voters()) == 3 })
}

// One of the two is started with the third one alone, and elects it: nothing that it has is lost.
// The other one forgot what is remembered of it, and ends, so that it is rebuilt, or is brought up
// to date. Nobody stays suspended.
func TestOneFromBeforeElectsTheThird(t *testing.T) {
	t.Parallel()
	s := setBackBeforeJoin(t, 3)
	first, second := s.old[0], s.old[1]
	second.start()
	s.third.start()
	leader(t, second, s.third)
	propose(t, second, "with the third one")
	converged(t, second, s.third)
	first.start()
	s.endsOrFollows(first, second)
}

// The two have acknowledged a branch, and one of them elects the third one, which had led in later
// terms: neither log takes the other one's place. No read can be made, as the third one leads, and
// what it has committed contradicts what is committed here. They serve nothing, and say why.
func TestThirdOneLeadsTwoOfAnotherBranch(t *testing.T) {
	t.Parallel()
	s := setBackBeforeJoin(t, 10)
	for _, m := range s.old {
		m.start()
	}
	for range 10 { // beyond where the log of the third one begins: it can look that up
		propose(t, leader(t, s.old...), "a branch")
	}
	converged(t, s.old...)
	first, second := s.old[0], s.old[1]
	first.close()
	s.third.start()
	leader(t, second, s.third)
	first.start()
	s.refuse()
}

// endsOrFollows waits until a member has ended because it forgot, or has all that the third one
// has, and checks that the others serve.
func (s *setBack) endsOrFollows(m, other *member) {
	t := s.t
	t.Helper()
	eventually(t, "it ends, or is brought up to date", func() bool {
		select {
		case <-m.Done():
			return true
		default:
			return m.Status().Suspended == nil && m.Status().Applied >= s.committed && m.sm.hash() == s.third.sm.hash()
		}
	})
	if err := m.Err(); err != nil {
		if !errors.Is(err, node.ErrAmnesia) && !errors.Is(err, node.ErrDiverged) {
			t.Errorf("it ended with %v", err)
		}
		_ = m.Node.Close()
		m.Node = nil
	}
	propose(t, other, "all is well")
	propose(t, s.third, "all is well")
	for _, m := range []*member{other, s.third} {
		if err := m.Status().Suspended; err != nil {
			t.Errorf("member %d is suspended: %v", m.cfg.ID, err)
		}
	}
	var together int
	for _, command := range other.sm.all() {
		if command == "together" {
			together++
		}
	}
	if together != 20 {
		t.Errorf("%d of the 20 writes of the third one are there", together)
	}
}

// Both are suspended, and one of them is started anew and elects the third one before it hears of
// the other one. That one goes on to ask the third one for a majority, and ends: its log is a
// branch. So it is rebuilt.
func TestSuspendedMemberHearsOfAMajority(t *testing.T) {
	t.Parallel()
	s := setBackBeforeJoin(t, 0)
	first, second := s.old[0], s.old[1]
	image := imagesOf(t, s.old[1:])[0]
	second.close()
	s.goOn()
	s.third.start()
	s.refuse()
	s.network.Partition(first.addr, second.addr)
	second.close()
	second.cfg.Dir = image
	second.start()
	leader(t, second, s.third)
	propose(t, second, "with the third one")
	s.endsOrFollows(first, second)
}

// Two of three members have disks from before two more joined, and are a majority by their
// records. The third one, whose disk is untouched, knows the two that joined: it stops the two
// before it is put aside for their branch, though none of those that joined runs yet. When they
// do, the three are a majority and serve all that they acknowledged.
func TestUntouchedMemberStopsAMajorityOfImages(t *testing.T) {
	t.Parallel()
	network := localnet.New()
	var ms []*member
	for id := uint64(1); id <= 5; id++ {
		m := newMember(t, id)
		m.network, m.addr, m.cfg.Bootstrap = network, fmt.Sprint("m", id), id == 1
		ms = append(ms, m)
	}
	ms[0].start()
	for _, m := range ms[1:3] {
		add(t, ms[0], m.start())
	}
	propose(t, ms[0], "before")
	converged(t, ms[:3]...)
	images := imagesOf(t, ms[:2])
	for _, m := range ms[3:] {
		add(t, leader(t, ms[:3]...), m.start())
	}
	for range 20 {
		propose(t, leader(t, ms...), "together")
	}
	converged(t, ms...)
	for i, m := range ms {
		m.close()
		if i < 2 {
			m.cfg.Dir = images[i]
		}
	}
	old, untouched := ms[:2], ms[2:]
	for _, m := range old {
		m.start()
	}
	for range 5 {
		propose(t, leader(t, old...), "a branch")
	}
	untouched[0].start()
	for _, m := range old { // when one of them stops, the other one has no majority
		eventually(t, fmt.Sprintf("member %d serves nothing", m.cfg.ID), func() bool { return m.Status().Suspended != nil || m.Status().Leader == 0 })
	}
	eventually(t, "one of them says why", func() bool { return old[0].Status().Suspended != nil || old[1].Status().Suspended != nil })
	if err := untouched[0].Err(); err != nil {
		t.Fatalf("the untouched member ended: %v", err)
	}
	for _, m := range untouched[1:] {
		m.start()
	}
	propose(t, leader(t, untouched...), "all is well")
	converged(t, untouched...)
	for _, m := range untouched {
		var together int
		for _, command := range m.sm.all() {
			if command == "together" {
				together++
			}
		}
		if together != 20 || m.Err() != nil {
			t.Errorf("member %d has %d of the 20 writes, and ended with %v", m.cfg.ID, together, m.Err())
		}
	}
}
