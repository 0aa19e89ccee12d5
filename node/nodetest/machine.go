package nodetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/octopii/octopii/node"
)

// machine is the state machine of a member as the simulator gives it to the
// Node: it watches what the Node asks of the one that is tested, and lets that one
// survive a crash or not.
type machine struct {
	m     *member
	inner node.StateMachine

	// applied is the last index that it was given, and chain a digest of all the
	// commands up to there: equal chains at equal indexes are equal states.
	applied, chain uint64

	// durable: it keeps its own data. saved is what of it is on its disk.
	durable bool
	saved   saved
}

// saved is a state on the disk of a durable machine.
type saved struct {
	applied, chain uint64
	data           []byte
}

func newMachine(m *member) *machine {
	return &machine{m: m, durable: m.w.cfg.durable, inner: m.w.cfg.New()}
}

// crash takes away what is not on disk.
func (s *machine) crash() { s.inner, s.applied, s.chain = s.m.w.cfg.New(), 0, 0 }

// wipe takes away what is.
func (s *machine) wipe() { s.saved = saved{} }

// restart brings back what is on disk.
func (s *machine) restart() {
	if !s.durable || s.saved.applied == 0 {
		return
	}
	s.applied, s.chain = s.saved.applied, s.saved.chain
	if err := s.inner.Restore(s.applied, bytes.NewReader(s.saved.data)); err != nil {
		panic(fmt.Sprintf("nodetest: the state machine does not take back its own snapshot: %v", err))
	}
}

// save puts the state on disk.
func (s *machine) save() {
	s.saved = saved{applied: s.applied, chain: s.chain, data: snapshotBytes(s.inner)}
}

// snapshotBytes is what a state machine's snapshot writes.
func snapshotBytes(sm node.StateMachine) []byte {
	snap, err := sm.Snapshot()
	if err != nil {
		panic(fmt.Sprintf("nodetest: the state machine failed to capture a snapshot: %v", err))
	}
	var b bytes.Buffer
	if _, err := snap.WriteTo(&b); err != nil {
		panic(fmt.Sprintf("nodetest: the state machine failed to write a snapshot: %v", err))
	}
	if err := snap.Close(); err != nil {
		panic(fmt.Sprintf("nodetest: the state machine failed to close a snapshot: %v", err))
	}
	return b.Bytes()
}

// Durable implements node.StateMachine.
func (s *machine) Durable() (uint64, bool) { return s.saved.applied, s.durable }

// Apply implements node.StateMachine.
func (s *machine) Apply(entries []node.Entry) ([][]byte, error) {
	commands := make([]node.Entry, len(entries))
	for i, e := range entries {
		commands[i] = node.Entry{Index: e.Index, Term: e.Term, Data: bytes.Clone(e.Data[opHead:])}
	}
	results, err := s.inner.Apply(commands)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		e := &entries[i]
		if e.Index <= s.applied {
			s.m.w.fail("applied in order", "%s applies entry %d after %d", s.m.name(), e.Index, s.applied)
		}
		s.applied, s.chain = e.Index, link2(s.chain, e.Index, e.Data)
		var result []byte
		if results != nil {
			result = results[i]
		}
		s.m.w.check.applied(s.m, e, result, s.chain)
	}
	if s.durable && s.m.w.oneIn(8) {
		s.save()
	}
	return results, nil
}

// link2 continues a chain with one command.
func link2(chain, index uint64, data []byte) uint64 {
	h := chain ^ index*0x9e3779b97f4a7c15
	h = (h ^ bytesHash(data)) * 0xff51afd7ed558ccd
	return h ^ h>>32
}

// Snapshot implements node.StateMachine. The chain goes along.
func (s *machine) Snapshot() (node.Snapshot, error) {
	inner, err := s.inner.Snapshot()
	if err != nil {
		return nil, err
	}
	return &capture{inner: inner, applied: s.applied, chain: s.chain}, nil
}

type capture struct {
	inner          node.Snapshot
	applied, chain uint64
}

func (c *capture) WriteTo(w io.Writer) (int64, error) {
	var head [16]byte
	binary.LittleEndian.PutUint64(head[:], c.applied)
	binary.LittleEndian.PutUint64(head[8:], c.chain)
	if _, err := w.Write(head[:]); err != nil {
		return 0, err
	}
	n, err := c.inner.WriteTo(w)
	return n + 16, err
}

func (c *capture) Close() error { return c.inner.Close() }

// Restore implements node.StateMachine.
func (s *machine) Restore(index uint64, r io.Reader) error {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	if err := s.inner.Restore(index, r); err != nil {
		return err
	}
	s.applied, s.chain = binary.LittleEndian.Uint64(head[:]), binary.LittleEndian.Uint64(head[8:])
	s.m.w.check.restored(s.m, index, s.applied, s.chain)
	if s.durable {
		s.save()
	}
	return nil
}
