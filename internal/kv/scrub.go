package kv

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// A bit that changes on a disk is found when it is read, which may be never: Scrub
// reads everything. What was wrong before it was written matches its checksum on one
// member and differs from what the others have: comparisons find that. A comparison
// is an entry of the log (CompareCommand). Every member that applies it notes the
// content of its key bucket, and proposes it (ContentCommand); every member that
// applies those has the contents of all of them as of one index. Nobody is asked over
// a connection of its own, and nobody's word counts but that of members.

// Scrub reads and verifies the whole database, at most bytesPerSecond of it. The error
// is that of ctx, ErrDamaged, or one of reading.
func (s *Store) Scrub(ctx context.Context, bytesPerSecond int) error {
	views, v := s.beginScrub()
	if views == nil {
		return ErrClosed
	}
	defer views.release(v)
	if err := views.failure(); err != nil {
		return fmt.Errorf("kv: scrub %s: %w", s.path(), err)
	}
	begin, read := time.Now(), 0
	pace := func(ctx context.Context, bytes int) error {
		read += bytes
		ahead := time.Duration(float64(read)/float64(bytesPerSecond)*float64(time.Second)) - time.Since(begin)
		if ahead <= 0 {
			return nil
		}
		timer := time.NewTimer(ahead)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := views.verifyView(ctx, v, pace); err != nil {
		return fmt.Errorf("kv: scrub %s: %w", s.path(), err)
	}
	return nil
}

// beginScrub returns a view of the database for Scrub, which releases it; nil without one.
func (c *current) beginScrub() (*views, *view) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.db == nil {
		return nil, nil
	}
	views := &c.db.be.views
	return views, views.newView()
}

// Content sums up all revisions of all keys: members that applied the same entries
// have the same. See content.
type Content struct{ Records, Sum uint64 }

// Comparison is what members said of their contents as of one index.
type Comparison struct {
	// Index is that of the entry that asked; 0: none did.
	Index uint64
	// Own is what this member had. Noted is false if it has none to compare: it was not
	// there, or was removing compacted revisions, as members do in their own time.
	Own   Content
	Noted bool
	// Members is what was said, by the member's ID.
	Members map[uint64]Content
}

// comparisonMembersMax bounds Members.
const comparisonMembersMax = 1024

// comparisons hands the last comparison from the goroutine that applies to others.
type comparisons struct {
	mu   sync.Mutex
	last Comparison
	// changed has a token when there is news.
	changed chan struct{}
}

func newComparisons() *comparisons { return &comparisons{changed: make(chan struct{}, 1)} }

// change lets f change the last comparison.
func (c *comparisons) change(f func(*Comparison)) {
	c.mu.Lock()
	f(&c.last)
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Comparison returns the last one.
func (s *Store) Comparison() Comparison {
	c := s.comparisons
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.last
	last.Members = maps.Clone(last.Members)
	return last
}

// ComparisonChanged returns a channel that has a token when Comparison has news. One
// goroutine may wait for it.
func (s *Store) ComparisonChanged() <-chan struct{} { return s.comparisons.changed }

// CompareCommand returns the command by which all members note their contents.
func CompareCommand() []byte { return []byte{kindCompare} }

// contentCommandBytes is the length of a ContentCommand.
const contentCommandBytes = 1 + 4*8

// ContentCommand returns the command that says what a member noted at index.
func ContentCommand(member, index uint64, c Content) []byte {
	b := append(make([]byte, 0, contentCommandBytes), kindContent)
	for _, n := range []uint64{member, index, c.Records, c.Sum} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// compare notes this member's content.
func (db *database) compare() {
	tx := db.be.BatchTx()
	tx.LockInsideApply()
	scheduled, _ := mvcc.UnsafeReadScheduledCompact(tx)
	finished, _ := mvcc.UnsafeReadFinishedCompact(tx)
	own := Content{db.be.batch.content.records, db.be.batch.content.sum}
	tx.Unlock()
	index := db.applying.index
	db.comparisons.change(func(c *Comparison) {
		*c = Comparison{Index: index, Own: own, Noted: scheduled == finished, Members: make(map[uint64]Content)}
	})
}

// said notes what a member said.
func (db *database) said(command []byte) error {
	if len(command) != contentCommandBytes {
		return Malformed
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(command[1+8*i:]) }
	db.comparisons.change(func(c *Comparison) {
		if c.Index == n(1) && c.Index != 0 && len(c.Members) < comparisonMembersMax {
			c.Members[n(0)] = Content{n(2), n(3)}
		}
	})
	return nil
}

// Verdict compares what was said with what this member noted. voters are those of the
// cluster now. The error is ErrDamaged if a majority of them agrees, and this member
// has something else: its database is not the one that the log makes. alarm tells of a
// difference that this member can do nothing about: between others, or without a
// majority that agrees.
func (c *Comparison) Verdict(voters []uint64) (alarm string, err error) {
	count := make(map[Content]int)
	for _, id := range voters {
		if said, ok := c.Members[id]; ok {
			count[said]++
		}
	}
	for agreed, n := range count {
		if n <= len(voters)/2 {
			continue
		}
		if c.Noted && c.Own != agreed {
			return "", fmt.Errorf("%w: at index %d it has %d revisions with the checksum %016x, and %d of %d voters have %d with %016x",
				ErrDamaged, c.Index, c.Own.Records, c.Own.Sum, n, len(voters), agreed.Records, agreed.Sum)
		}
		if len(count) > 1 {
			return fmt.Sprintf("the databases of members differ at index %d: %d of %d voters agree; those that differ rebuild themselves", c.Index, n, len(voters)), nil
		}
		return "", nil
	}
	if len(count) > 1 {
		return fmt.Sprintf("the databases of members differ at index %d, and no majority agrees: compare their data, and rebuild the members that are wrong", c.Index), nil
	}
	return "", nil
}
