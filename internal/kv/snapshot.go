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
	views *views
	view  *view
}

// WriteTo reads and verifies the whole file before it writes any of it, so that no
// damage travels to another member: this one fails instead.
func (s *snapshot) WriteTo(w io.Writer) (n int64, err error) {
	if err := s.views.verifyView(context.Background(), s.view, nil); err != nil {
		return 0, fmt.Errorf("kv: this member's own database is not fit for a snapshot: %w", err)
	}
	s.views.protect("copy the file", func() { n, err = s.view.tx.WriteTo(w) })
	return n, errors.Join(err, s.views.failure())
}

// Close lets the database go.
func (s *snapshot) Close() error {
	s.views.release(s.view)
	return nil
}
