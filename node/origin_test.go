package node_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/wal"
)

// withoutOrigin gives a member a disk in memory on which its origin file cannot be written while
// the returned one holds an error.
func withoutOrigin(m *member) *atomic.Pointer[error] { return without(m, "origin") }

func without(m *member, file string) *atomic.Pointer[error] {
	var why atomic.Pointer[error]
	m.cfg.Dir = "/data"
	node.OnFS(&m.cfg, vfstest.NewFaulty(vfstest.NewMem(), func(op vfstest.Op) error {
		if err := why.Load(); err != nil && op.Kind == vfstest.Create && strings.Contains(op.Path, file) {
			return &fs.PathError{Op: "create", Path: op.Path, Err: *err}
		}
		return nil
	}), smallSegment)
	return &why
}

// A founder that cannot write down that it founds does not: what it founded could not be told from
// a cluster that it joined. One that listened before tries again, and one that does not starts
// another time.
func TestFounderWithoutRoomForItsOrigin(t *testing.T) {
	full := error(syscall.ENOSPC)
	for _, listens := range []bool{false, true} {
		m := newMember(t, 1)
		why := withoutOrigin(m)
		why.Store(&full)
		said := observed(m)
		m.cfg.Bootstrap = true
		if listens {
			m.cfg.FoundAfterTicks = 3
			m.start()
			eventually(t, "it says what is missing", func() bool { return said("no space for the log of a new cluster") })
			if st := m.Status(); st.Cluster != 0 || m.Err() != nil {
				t.Errorf("it founded cluster %x, %v", st.Cluster, m.Err())
			}
			why.Store(nil)
		} else {
			if err := m.tryStart(); !errors.Is(err, wal.ErrNoSpace) {
				t.Fatalf("start: %v, want ErrNoSpace", err)
			}
			why.Store(nil)
			m.start()
		}
		<-m.Initialized()
		propose(t, m, "founded")
		m.close()
	}
}

// A disk that fails then ends the member.
func TestFounderWhoseDiskFails(t *testing.T) {
	m := newMember(t, 1)
	why := withoutOrigin(m)
	broken := error(syscall.EIO)
	why.Store(&broken)
	m.cfg.Bootstrap = true
	if err := m.tryStart(); err == nil {
		<-m.Done()
		if m.Err() == nil || m.Status().Cluster != 0 {
			t.Errorf("it founded cluster %x, %v", m.Status().Cluster, m.Err())
		}
		_ = m.Node.Close()
	}
	m.Node = nil
}

// A member that cannot write its promise down gives none, so that nothing is founded that it does
// not know of after a restart; when it can, all found one cluster.
func TestPromiseWithoutRoom(t *testing.T) {
	ms := expectingInOrder(t)
	why := withoutOrigin(ms[1])
	full := error(syscall.EDQUOT)
	why.Store(&full)
	said := observed(ms[1])
	for _, m := range ms {
		m.start()
	}
	eventually(t, "it cannot note what it is asked to promise", func() bool { return said("cannot note what this member learned") })
	for _, m := range ms {
		if st := m.Status(); st.Cluster != 0 || m.Err() != nil {
			t.Errorf("it founded cluster %x, %v", st.Cluster, m.Err())
		}
	}
	why.Store(nil)
	voters(t, ms...)
	propose(t, ms[0], "founded")
}

// Members with one name found nothing together: each log line that names one would be of both.
func TestExpectedMembersWithOneName(t *testing.T) {
	ms := expecting(t)
	ms[1].cfg.Name = ms[0].cfg.Name
	var said []func(string) bool
	for _, m := range ms {
		said = append(said, observedReason(m))
		m.start()
	}
	eventually(t, "one of them says why", func() bool {
		for _, s := range said {
			if s("give each its own") {
				return true
			}
		}
		return false
	})
	for _, m := range ms {
		takesTurns(t, m, 30)
		if st := m.Status(); st.Cluster != 0 {
			t.Errorf("it founded cluster %x", st.Cluster)
		}
	}
}

// Of several members, one of which is named by another address than its own, none waits for
// itself: who answers there is this member.
func TestOwnAddressByAnotherName(t *testing.T) {
	var ms []*member
	var join []string
	for i := range 3 {
		m := newMember(t, uint64(i+1))
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		m.addr = free.Addr().String()
		if err := free.Close(); err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(m.addr)
		join = append(join, "localhost:"+port)
		ms = append(ms, m)
	}
	for _, m := range ms {
		m.cfg.Join, m.cfg.Expect = join, 3
		m.start()
	}
	voters(t, ms...)
	propose(t, ms[0], "founded")
}

// A member that promised to take part in a cluster may be one of it by now. Started as a founder
// it founds none.
func TestPromisedMemberFoundsNothing(t *testing.T) {
	ms := expectingInOrder(t)
	why := withoutOrigin(ms[2]) // so that nothing is founded
	full := error(syscall.ENOSPC)
	why.Store(&full)
	said := observed(ms[2])
	for _, m := range ms {
		m.start()
	}
	eventually(t, "one cannot promise", func() bool { return said("cannot note what this member learned") })
	takesTurns(t, ms[0], 60) // in which it asks both again
	for _, m := range ms {
		m.kill()
	}
	m := ms[1]
	m.cfg.Bootstrap, m.cfg.Expect, m.cfg.Join = true, 0, nil
	said = observed(m)
	m.start()
	takesTurns(t, m, 60)
	if m.Status().Cluster != 0 || !said("it founds none") {
		t.Errorf("a member that promised founded cluster %x", m.Status().Cluster)
	}
}

// expectingInOrder is expecting, where the first member is the one that founds.
func expectingInOrder(t *testing.T) []*member {
	t.Helper()
	ms := expecting(t)
	for i, m := range ms {
		m.cfg.ID = uint64(i + 1)
	}
	return ms
}

// For whom a member serves nothing it writes down as soon as it can: after a restart it serves
// nothing either.
func TestClaimThatCannotBeWrittenDown(t *testing.T) {
	network := localnet.New()
	m := newMember(t, 1)
	m.network, m.addr, m.cfg.Bootstrap = network, "a", true
	why := withoutOrigin(m)
	said := observed(m)
	m.start()
	propose(t, m, "mine")
	full := error(syscall.ENOSPC)
	why.Store(&full)
	r := newRival(t, network)
	r.answers(claim("a", 7), nil)
	r.dials("a", "it is suspended", suspended(m))
	eventually(t, "it says that it cannot write that down", func() bool { return said("cannot write down that another cluster claims") })
	r.answers(nil, nil) // nothing reminds it
	why.Store(nil)
	// It writes it down with one of its next questions to the other cluster.
	takesTurns(t, m, 60) // questions are an election timeout apart
	m.kill()
	m.start()
	if !isClaimed(m) {
		t.Errorf("it serves after a restart: %v", m.Status().Suspended)
	}
}

func observedReason(m *member) func(text string) bool {
	seen, logs := newObserver()
	m.cfg.Logger = seen
	return func(text string) bool {
		for _, l := range logs.All() {
			if strings.Contains(fmt.Sprint(l.ContextMap()["because"]), text) {
				return true
			}
		}
		return false
	}
}
