package sim

// What is checked of the state machine that is tested: that its states follow from
// the log, and that its snapshots are these states.

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/octopii/octopii/node"
)

// digest is what a state amounts to, and whose it was.
type digest struct {
	hash uint64
	by   string
	// data is what the hash is of, if that is not too much.
	data []byte
}

// digestBytesMax is how much of a state is kept to show how it differs.
const digestBytesMax = 4 << 10

// differs shows where two states differ.
func (d digest) differs(other digest) string {
	if d.data == nil || other.data == nil {
		return ""
	}
	at := 0
	for at < min(len(d.data), len(other.data)) && d.data[at] == other.data[at] {
		at++
	}
	from := max(0, at-16)
	return fmt.Sprintf(": at byte %d, %s has %s and %s has %s", at, d.by, show(d.data[from:]), other.by, show(other.data[from:]))
}

// twin is a state machine that is no member's.
type twin struct {
	sm node.StateMachine
	// applied is the last index that it has, restored the one at which it began.
	applied, restored uint64
}

const deterministic = ". Is there a clock, a random source, the order of a map, a variable of the package in Apply, or something in memory that is not in the snapshot?"

// show shows the beginning of what a state machine returned.
func show(b []byte) string {
	more := ""
	if len(b) > 48 {
		b, more = b[:48], fmt.Sprintf("... (%d bytes)", len(b))
	}
	if strings.IndexFunc(string(b), func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return fmt.Sprintf("%q%s", b, more)
	}
	return fmt.Sprintf("%x%s", b, more)
}

// digests are the states that the committed log amounts to, as state machines told them.
type digests struct {
	book
	// states are those at an index, the first that was seen.
	states map[uint64]digest
	// twins are two more state machines, fed with snapshots: one goes along, the
	// other waits in an older state for the next snapshot.
	twins [2]*twin
}

// state: equal logs, equal states. It returns the state's digest.
func (c *digests) state(m *member) digest {
	at := m.machine.applied
	d, err := c.w.digest(m.name(), m.machine.inner)
	if err == nil && !m.phantom && !c.agrees(at, d) && c.stable(m.name(), m.machine.inner) {
		c.w.fail("equal logs are equal states", "%s has another state at %d than %s had there%s", m.name(), at, c.states[at].by, d.differs(c.states[at])+deterministic)
	}
	return d
}

// agrees says whether a state is what others had at that index.
func (c *digests) agrees(at uint64, d digest) bool {
	was, ok := c.states[at]
	if !ok {
		c.states[at] = d
	}
	return !ok || was.hash == d.hash
}

// stable: the digest of a state is always the same. Where it is not, it says
// nothing about states.
func (c *digests) stable(who string, sm node.StateMachine) bool {
	first, err := c.w.digest(who, sm)
	for range 16 {
		next, err2 := c.w.digest(who, sm)
		if err != nil || err2 != nil {
			return false
		}
		if next.hash != first.hash {
			c.w.fail("two snapshots of one state are equal", "those of %s are not: write maps in the order of their keys, or set Options.Digest, which must give equal bytes for equal states", who)
			return false
		}
	}
	return true
}

// twinEvery is how many entries are at least between two snapshots that the twins
// take in.
const twinEvery = 16

// written: a capture is of its moment, however late it is written; and a state
// machine that had another state, restored from it, is equal to the one that was
// captured, and stays equal.
func (c *digests) written(s *capture, data []byte) {
	if c.w.failed != nil || s.m.phantom {
		return
	}
	if c.w.cfg.Digest == nil && bytesHash(data) != s.digest.hash {
		if c.stable(s.m.name(), s.m.machine.inner) {
			c.w.fail("a capture is of its moment", "%s captured a snapshot at %d and has applied %d now, and the snapshot is not of the state that it captured: it shares memory with the state machine", s.m.name(), s.applied, s.m.machine.applied)
		}
		return
	}
	for i := range c.twins {
		if c.twins[i] == nil {
			c.twins[i] = &twin{sm: c.w.cfg.New()}
		}
	}
	along, waits := c.twins[0], c.twins[1]
	if s.applied < along.restored+twinEvery || s.applied < along.applied {
		return
	}
	if !c.follow(along, s.applied) {
		return
	}
	d, err := c.w.digest("it", along.sm)
	if err != nil {
		return
	}
	if d.hash != s.digest.hash {
		if !c.stable("a restored state machine", along.sm) {
			return
		}
		c.w.fail("a restored state machine goes on like the others", "one that was restored at %d and applied what came then has another state at %d than %s%s. Is something not in the snapshot?", along.restored, s.applied, s.m.name(), d.differs(s.digest))
		return
	}
	c.faulty(along.sm, s, data)
	what := fmt.Sprintf("a state machine at %d restores the snapshot of %s at %d", waits.applied, s.m.name(), s.applied)
	from := &pieces{from: bytes.NewReader(data)}
	if c.w.tested(what, func() error { return waits.sm.Restore(s.applied, from) }) != nil {
		return
	}
	if d, err = c.w.digest("it", waits.sm); err != nil {
		return
	}
	if d.hash != s.digest.hash {
		if !c.stable("a restored state machine", waits.sm) {
			return
		}
		c.w.fail("Restore replaces the whole state", "%s, and does not have the state that was captured%s. Is something left of the old state, not in the snapshot, or shared between the snapshot and the state machine (%s has applied %d meanwhile)?", what, d.differs(s.digest), s.m.name(), s.m.machine.applied)
		return
	}
	waits.applied, waits.restored = s.applied, s.applied
	c.twins[0], c.twins[1] = waits, along
}

// faulty: a writer or a reader that fails makes WriteTo or Restore fail: else half
// a snapshot would count as a whole one.
func (c *digests) faulty(sm node.StateMachine, s *capture, data []byte) {
	to := &tee{to: errWriter{}}
	_ = c.w.tested(fmt.Sprintf("a snapshot at %d is written, and the writer fails", s.applied), func() error {
		snap, err := sm.Snapshot()
		if err != nil {
			return err
		}
		_, err = snap.WriteTo(to)
		_ = snap.Close() // it may complain again
		if err == nil && to.err != nil {
			return fmt.Errorf("WriteTo returned no error when the writer did: %w", to.err)
		}
		return nil
	})
	from := &pieces{from: io.MultiReader(bytes.NewReader(data[:len(data)/2]), errReader{})}
	_ = c.w.tested(fmt.Sprintf("the snapshot of %s at %d is restored, and the reader fails half way", s.m.name(), s.applied), func() error {
		return from.explains(c.w.cfg.New().Restore(s.applied, from))
	})
}

// errWriter and errReader fail.
type (
	errWriter struct{}
	errReader struct{}
)

func (errWriter) Write([]byte) (int, error) { return 0, errIO }

func (errReader) Read([]byte) (int, error) { return 0, errIO }

// follow gives a twin the committed commands up to an index.
func (c *digests) follow(t *twin, to uint64) bool {
	for t.applied < to {
		t.applied++
		e := &c.ledger[t.applied]
		if !e.command {
			continue
		}
		who := fmt.Sprintf("a state machine that was restored at %d", t.restored)
		result, err := c.apply(who, t.sm, t.applied)
		if err != nil {
			return false
		}
		if bytesHash(result) != e.result {
			c.w.fail("a restored state machine goes on like the others", "one that was restored at %d gets another result for the command at %d (%s) than %s: %s: is something not in the snapshot?",
				t.restored, t.applied, c.w.cfg.describe(e.data[opHead:]), e.shown, show(result))
			return false
		}
	}
	return true
}

// apply gives a command of the ledger to a state machine.
func (c *digests) apply(who string, sm node.StateMachine, index uint64) (result []byte, err error) {
	e := &c.ledger[index]
	entry, _ := hand(index, e.term, e.data[opHead:])
	commands := []node.Entry{entry}
	err = c.w.tested(c.w.applyOf(who, commands), func() error {
		results, err := sm.Apply(commands)
		switch {
		case err != nil:
			return err
		case len(results) > 1 || results != nil && len(results) == 0:
			return fmt.Errorf("%d results for 1 entry", len(results))
		case results != nil:
			result = results[0]
		}
		return nil
	})
	return result, err
}
