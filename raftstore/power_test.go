package raftstore

import (
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/wal"
)

// The power fails whenever a call has returned, and takes everything that was not made
// durable: what the call promised is there, under its name, in a directory that is new.
func TestPowerFailsBehindEachCall(t *testing.T) {
	const dir = "/disk/new/member"
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		disk := vfstest.NewMem()
		noError(t, disk.MkdirAll("/disk/new"))
		noError(t, disk.SyncDir("/disk"))
		noError(t, disk.SyncDir("/"))
		open := func(fs vfs.FS) sides {
			t.Helper()
			s, err := openSides(Options{FS: fs, Dir: dir, Backend: wal.New(wal.Options{FS: fs, SegmentBytes: 64 << 10})})
			if err != nil {
				t.Fatalf("seed %d: open: %v", seed, err)
			}
			return s
		}
		s := open(disk)
		// holds loses the power, and opens what is left.
		holds := func(identity bool, last uint64, hs raftpb.HardState) {
			t.Helper()
			for _, after := range []*vfstest.Mem{disk.CrashLosingAll(), disk.Crash(rnd)} {
				c := open(after)
				want := someIdentity
				if last > 0 {
					want.Cluster = headerOf(1, 1, 1).Membership.Cluster
				}
				if got, ok := c.Identity(); ok != identity || identity && got != want {
					t.Fatalf("seed %d: the identity is %+v, %v; want %+v, %v", seed, got, ok, want, identity)
				}
				if c.Initialized() != (last > 0) {
					t.Fatalf("seed %d: initialized: %v; want %v", seed, c.Initialized(), last > 0)
				}
				if last > 0 {
					got, _, err := c.InitialState()
					noError(t, err)
					if end, _ := c.LastIndex(); end != last || got.Term != hs.Term || got.Vote != hs.Vote {
						t.Fatalf("seed %d: the log ends at %d with %+v; want %d and %+v", seed, end, got, last, hs)
					}
				}
				noError(t, c.Close())
			}
		}
		holds(false, 0, raftpb.HardState{})
		noError(t, s.SetIdentity(someIdentity))
		holds(true, 0, raftpb.HardState{})
		hs := raftpb.HardState{Term: 1, Commit: 1}
		putSnapshot(t, s, headerOf(1, 1, 1))
		noError(t, s.Found(headerOf(1, 1, 1), hs))
		holds(true, 1, hs)
		last := uint64(1)
		for range 4 {
			hs.Term, hs.Vote = hs.Term+1, rnd.Uint64N(3)
			first := last - rnd.Uint64N(min(3, last)) + 1
			last = first + rnd.Uint64N(20)
			appendDurably(t, s, hs, entriesOf(hs.Term, first, last))
			holds(true, last, hs)
		}
		received := headerOf(hs.Term+1, last+10, 1, 2)
		putSnapshot(t, s, received)
		hs = raftpb.HardState{Term: hs.Term + 1, Vote: 2, Commit: last + 10}
		noError(t, s.Install(received, hs, nil))
		holds(true, last+10, hs)
		noError(t, s.Close())
	}
}
