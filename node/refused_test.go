package node_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
)

// refusing is a disk that opens no file while a test says why.
type refusing struct {
	*vfstest.Faulty
	disk *vfstest.Mem
	why  atomic.Pointer[error]
}

func onRefusing(m *member) *refusing {
	r := &refusing{disk: vfstest.NewMem()}
	r.Faulty = vfstest.NewFaulty(r.disk, func(op vfstest.Op) error {
		switch op.Kind {
		case vfstest.Create, vfstest.Open, vfstest.OpenReadWrite, vfstest.ReadDir:
			if why := r.why.Load(); why != nil {
				return &fs.PathError{Op: "open", Path: op.Path, Err: *why}
			}
		}
		return nil
	})
	m.cfg.Dir = "/data"
	node.OnFS(&m.cfg, r.Faulty, 4*smallSegment)
	return r
}

// The system opens no file any more, for any of the reasons that pass, on all members:
// proposals are refused when the log needs one, reads go on, snapshots fail, and nobody
// ends. When files can be opened again all goes on by itself.
func TestNoFileCanBeOpened(t *testing.T) {
	for _, why := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EACCES, syscall.EROFS} {
		t.Run(why.Error(), func(t *testing.T) {
			var ms []*member
			var disks []*refusing
			for id := uint64(1); id <= 3; id++ {
				m := newMember(t, id)
				m.cfg.Bootstrap = id == 1
				disks = append(disks, onRefusing(m))
				ms = append(ms, m.start())
				if id > 1 {
					add(t, ms[0], m)
				}
			}
			for _, d := range disks {
				eventually(t, "a next file", func() bool { return hasNext(d.disk) })
				d.why.Store(&why)
			}
			var acknowledged []string
			for i := 0; ; i++ {
				if i == 200 {
					t.Fatal("the log never needed a file")
				}
				command := fmt.Sprintf("%d %s", i, strings.Repeat("x", 4000))
				// What was taken before the last file was full waits until there is one.
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := ms[0].Propose(ctx, []byte(command))
				cancel()
				if errors.Is(err, node.ErrNoSpace) {
					break
				}
				if errors.Is(err, node.ErrUnknownOutcome) {
					continue
				}
				if err != nil {
					t.Fatalf("proposal %d: %v, want success or ErrNoSpace", i, err)
				}
				acknowledged = append(acknowledged, command)
			}
			if _, err := ms[0].TakeSnapshot(timeout(t)); err == nil {
				t.Error("a snapshot was taken, and no file could be opened")
			}
			readable(t, ms...)
			for _, d := range disks {
				d.why.Store(nil)
			}
			acknowledged = append(acknowledged, accepts(t, ms[0]))
			if _, err := ms[0].TakeSnapshot(timeout(t)); err != nil {
				t.Errorf("a snapshot when files can be opened again: %v", err)
			}
			readable(t, ms...)
			for _, m := range ms {
				got := m.sm.all()
				for _, command := range acknowledged {
					if !slices.Contains(got, command) {
						t.Errorf("member %d lacks %.10q, which was acknowledged", m.cfg.ID, command)
					}
				}
			}
		})
	}
}
