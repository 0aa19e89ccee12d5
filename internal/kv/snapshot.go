package kv

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/octopii/octopii/node"
)

// Snapshot commits and captures the database file as of the last Apply. The
// snapshot must be closed before Close returns.
func (s *Store) Snapshot() (node.Snapshot, error) {
	if s.db == nil {
		return nil, ErrClosed
	}
	snap, err := s.db.be.capture()
	if err != nil {
		return nil, fmt.Errorf("kv: capture the database: %w", err)
	}
	return snap, nil
}

// snapshot is a captured file.
type snapshot struct {
	b    *checkedBackend
	view *view
}

// WriteTo reads and verifies the whole file before it writes any of it, so that no
// damage travels to another member: this one fails instead.
func (s *snapshot) WriteTo(w io.Writer) (n int64, err error) {
	if err := s.b.verifyView(context.Background(), s.view, nil); err != nil {
		return 0, fmt.Errorf("kv: this member's own database is not fit for a snapshot: %w", err)
	}
	s.b.protect("copy the file", func() { n, err = s.view.tx.WriteTo(w) })
	return n, errors.Join(err, s.b.failure())
}

// Close lets the database go.
func (s *snapshot) Close() error {
	s.b.release(s.view)
	return nil
}

// verifyView reads and verifies all pages and records of a view, of which this
// backend fails if they are damaged. See verifyTree for pace.
func (b *checkedBackend) verifyView(ctx context.Context, v *view, pace func(context.Context, int) error) error {
	m := meta{
		pageBytes: int64(b.db.Info().PageSize),
		root:      uint64(v.tx.Cursor().Bucket().Root()),
	}
	m.pages = uint64(v.tx.Size() / m.pageBytes)
	err := verifyTree(ctx, b.file, m, pace)
	if errors.Is(err, ErrDamaged) {
		b.fail(err)
	}
	return err
}
