package kv

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.etcd.io/bbolt"
)

// views are what readers see of the database: the last commit, and what was written since.
// Whoever writes publishes; any goroutine may read.
type views struct {
	*fault
	db *bbolt.DB

	// mu guards what follows, and the users of each view.
	mu sync.Mutex
	// visible is what readers see.
	visible visible
	size    sizes
	// retired is closed by the publish that ends it; nil: readers may begin.
	retired chan struct{}
}

// sizes are in bytes, as of the last commit.
type sizes struct{ total, inUse int64 }

// visible is a state of the database: a commit and what was written since.
type visible struct {
	view    *view
	pending pending
}

// view is a read transaction that many readers share. It ends when it has been
// replaced and the last of them is done.
type view struct {
	tx      *bbolt.Tx
	buckets map[string]*bbolt.Bucket
	// users are readers, and visible itself. Guarded by views.mu.
	users int
}

// newView begins a read transaction of the last commit. It has one user.
func (s *views) newView() *view {
	tx, err := s.db.Begin(false)
	if err != nil {
		s.fail(fmt.Errorf("begin to read: %w", err))
		return nil
	}
	v := &view{tx: tx, buckets: make(map[string]*bbolt.Bucket), users: 1}
	s.protect("open the buckets", func() {
		err = tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			v.buckets[string(name)] = bucket
			return nil
		})
	})
	if err != nil {
		s.fail(fmt.Errorf("open the buckets: %w", err))
	}
	return v
}

// committed shows readers the last commit.
func (s *views) committed() {
	v := s.newView()
	if v == nil {
		return
	}
	total := v.tx.Size()
	// bbolt takes the pages that a commit gave up for the second commit behind it. They count
	// at once: there may be no other commit, where writes are refused for want of free pages.
	stats := s.db.Stats()
	free := int64(stats.FreePageN+stats.PendingPageN) * int64(s.db.Info().PageSize)
	s.mu.Lock()
	s.size = sizes{total, total - free}
	s.mu.Unlock()
	s.publish(v)
}

// publish shows readers a commit, behind which nothing is written yet.
func (s *views) publish(v *view) {
	s.mu.Lock()
	old := s.visible.view
	s.visible = visible{view: v}
	if s.retired != nil {
		close(s.retired)
		s.retired = nil
	}
	s.mu.Unlock()
	s.release(old)
}

// wrote shows readers what was written since the last commit.
func (s *views) wrote(p pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visible.pending = p
}

// acquire returns what is visible now: nothing, if the database failed before the publish
// that readers wait for. Its view must be released.
func (s *views) acquire() visible {
	for {
		seen, retired := s.tryAcquire()
		if retired == nil {
			return seen
		}
		select {
		case <-retired:
		case <-s.suspended:
			return visible{}
		}
	}
}

func (s *views) tryAcquire() (seen visible, retired <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.visible.view != nil {
		s.visible.view.users++
	}
	return s.visible, s.retired
}

// retire lets nobody begin to read until the next publish, or failure.
func (s *views) retire() {
	s.mu.Lock()
	old := s.visible.view
	s.visible, s.retired = visible{}, make(chan struct{})
	s.mu.Unlock()
	s.release(old)
}

func (s *views) release(v *view) {
	if v == nil {
		return
	}
	s.mu.Lock()
	v.users--
	last := v.users == 0
	s.mu.Unlock()
	if last {
		_ = v.tx.Rollback() // it was open
	}
}

func (s *views) sizes() sizes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// verifyView reads and verifies all pages and records of a view, of which the
// database fails if they are damaged. See verifyTree for pace.
func (s *views) verifyView(ctx context.Context, v *view, pace func(context.Context, int) error) error {
	m := meta{
		pageBytes: int64(s.db.Info().PageSize),
		root:      uint64(v.tx.Cursor().Bucket().Root()),
	}
	m.pages = uint64(v.tx.Size() / m.pageBytes)
	err := verifyTree(ctx, s.file, m, pace)
	if errors.Is(err, ErrDamaged) {
		s.fail(err)
	}
	return err
}
