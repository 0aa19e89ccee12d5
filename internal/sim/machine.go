package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"runtime/debug"
	"strings"

	"github.com/octopii/octopii/node"
)

// machine is the state machine of a member as the simulator gives it to the
// Node: it watches what the Node asks of the one that is tested and what that one
// answers, and lets it survive a crash or not.
type machine struct {
	m     *member
	inner node.StateMachine

	// applied is the last index that it was given, and chain a digest of all the
	// commands up to there: equal chains at equal indexes are equal states.
	applied, chain uint64
	// term is that of the last entry; 0 after a snapshot.
	term uint64
	// handed is what the last call of Apply got and returned.
	handed []handed

	// durable: it keeps its own data. saved is what of it is on its disk.
	durable bool
	saved   saved

	// limited: it has room for so many bytes of commands that make it grow, and no more.
	// drawn: it had more before, and what is on its way may be too much.
	limited, drawn bool
	room           int64
}

// handed is a command that was given to a state machine, and what it returned.
type handed struct {
	index uint64
	// data was given, with room behind it; is is what must be there.
	data, is []byte
	// result was returned, and had hash.
	result []byte
	hash   uint64
}

// spare is the room behind a command. In production there is other data.
var spare = []byte("not yours")

// hand makes the entry that a state machine gets for one of the log.
func hand(index, term uint64, command []byte) (node.Entry, handed) {
	is := append(bytes.Clone(command), spare...)
	h := handed{index: index, data: bytes.Clone(is), is: is}
	return node.Entry{Index: index, Term: term, Data: h.data[:len(command)]}, h
}

// saved is a state on the disk of a durable machine.
type saved struct {
	// index is up to where nothing is missing: applied is the last entry before it that a
	// state machine sees.
	index                uint64
	applied, term, chain uint64
	data                 []byte
}

func newMachine(m *member) *machine {
	return &machine{m: m, durable: m.w.cfg.durable, inner: m.w.cfg.New()}
}

// crash takes away what is not on disk.
func (s *machine) crash() {
	s.inner, s.applied, s.term, s.chain, s.handed = s.m.w.cfg.New(), 0, 0, 0, nil
}

// wipe takes away what is.
func (s *machine) wipe() { s.saved = saved{} }

// restart brings back what is on disk.
func (s *machine) restart() {
	if !s.durable || s.saved.applied == 0 {
		return
	}
	s.applied, s.term, s.chain = s.saved.applied, s.saved.term, s.saved.chain
	s.m.reaches(s.applied, s.chain)
	if err := s.inner.Restore(s.applied, bytes.NewReader(s.saved.data)); err != nil {
		panic(fmt.Sprintf("sim: the state machine does not take back its own snapshot: %v", err))
	}
}

// save puts the state on disk.
func (s *machine) save() {
	data, err := snapshotBytes(s.inner)
	if err != nil {
		panic(fmt.Sprintf("sim: the state machine has no snapshot: %v", err))
	}
	s.saved = saved{index: s.applied, applied: s.applied, term: s.term, chain: s.chain, data: data}
}

// snapshotBytes is what a state machine's snapshot writes.
func snapshotBytes(sm node.StateMachine) ([]byte, error) {
	snap, err := sm.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	if snap == nil {
		return nil, errNoSnapshot
	}
	var b bytes.Buffer
	_, err = snap.WriteTo(&b)
	return b.Bytes(), errors.Join(err, snap.Close())
}

var errNoSnapshot = errors.New("Snapshot returned neither a snapshot nor an error")

// errTested ends a member whose state machine failed. The failure is told already.
var errTested = errors.New("the state machine failed")

// tested calls the state machine that is tested. An error or a panic is a failure
// of that one, and of nothing else.
func (st *story) tested(what string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			st.fail("the state machine does not panic", "%s: %v\n%s", what, r, stackOf(debug.Stack()))
			err = errTested
		}
	}()
	if err := f(); err != nil {
		st.fail("the state machine does what it is asked", "%s: %v", what, err)
		return errTested
	}
	return nil
}

// stackOf leaves of a stack what lies between the panic and the simulator.
func stackOf(stack []byte) string {
	s := string(stack)
	if _, behind, ok := strings.Cut(s, "\npanic("); ok {
		s = "panic(" + behind
	}
	s, _, _ = strings.Cut(s, "\ngithub.com/octopii/octopii/internal/sim.(*story).tested(")
	return s
}

// digest is what a state machine's state amounts to: equal states, equal digests.
func (w *world) digest(who string, sm node.StateMachine) (digest, error) {
	d := digest{by: who}
	f := w.cfg.Digest
	what := who + ": take a snapshot"
	if f != nil {
		what = who + ": Options.Digest"
	}
	err := w.tested(what, func() (err error) {
		if f != nil {
			d.data = f(sm)
		} else {
			d.data, err = snapshotBytes(sm)
		}
		return err
	})
	d.hash = bytesHash(d.data)
	if len(d.data) > digestBytesMax {
		d.data = nil
	}
	return d, err
}

// Durable implements node.StateMachine.
func (s *machine) Durable() (uint64, bool) { return s.saved.index, s.durable }

// Position implements node.Positioned.
func (s *machine) Position() (index, term uint64) {
	if s.saved.index > s.saved.applied {
		return s.saved.index, 0
	}
	return s.saved.index, s.saved.term
}

// limit gives it so much room from now on; free as much as it wants.
func (s *machine) limit(bytes int64, drawn bool) { s.limited, s.drawn, s.room = true, drawn, bytes }
func (s *machine) free()                         { s.limited, s.drawn, s.room = false, false, 0 }

// Room implements node.Limited.
func (s *machine) Room() int64 {
	switch {
	case !s.limited:
		return 1 << 40
	case s.room < commandOverhead+100: // for one of a script
		return 0
	}
	return s.room
}

// Grows implements node.Limited. Of the simulator's own state machine only a swap is taken
// for what makes no room and needs none.
func (s *machine) Grows(c []byte) bool {
	_, own := s.inner.(*registers)
	return !own || len(c) >= opHead+commandBytes && decodeCommand(c[opHead:]).verb != swap
}

// commandOverhead is what a command counts for beside its bytes: see node.Limited.
const commandOverhead = 512

// takes counts what makes it grow. Those that have no room for what they are given must
// never be so many that there is no majority of others.
func (s *machine) takes(e *node.Entry) {
	if !s.limited || !s.Grows(e.Data) {
		return
	}
	if s.room -= int64(len(e.Data)) + commandOverhead; s.room >= 0 || s.drawn {
		return
	}
	var full []string
	voters := s.m.status().Membership.Voters()
	for _, id := range voters {
		if m := s.m.w.member(id); m != nil && m.machine.limited && m.machine.room < 0 {
			full = append(full, m.name())
		}
	}
	if 2*(len(voters)-len(full)) <= len(voters) {
		s.m.w.fail("what is in the log has room where it is applied", "entry %d is too large for %s, and they are %d of %d voters", e.Index, strings.Join(full, ", "), len(full), len(voters))
	}
}

// checkpoint says at which indexes states are compared: at every 32nd, later at
// sixteen or more places while the log doubles, so that large states do not cost
// more and more.
func checkpoint(index uint64) bool { return index%max(32, uint64(1)<<bits.Len64(index)>>5) == 0 }

// Apply implements node.StateMachine. A call ends where states are compared.
func (s *machine) Apply(entries []node.Entry) (results [][]byte, err error) {
	s.unchanged()
	for len(entries) > 0 {
		n := 1
		for n < len(entries) && !checkpoint(entries[n-1].Index) {
			n++
		}
		r, err := s.apply(entries[:n])
		if err != nil {
			return nil, err
		}
		if results = append(results, r...); checkpoint(s.applied) {
			s.m.w.check.state(s.m)
		}
		entries = entries[n:]
	}
	if s.durable && s.m.w.oneIn(8) {
		s.save()
	}
	return results, nil
}

// apply gives entries to the one that is tested, and returns a result for each.
func (s *machine) apply(entries []node.Entry) (results [][]byte, err error) {
	w := s.m.w
	commands := make([]node.Entry, len(entries))
	s.handed = make([]handed, len(entries))
	for i, e := range entries {
		commands[i], s.handed[i] = hand(e.Index, e.Term, e.Data[opHead:])
	}
	what := w.applyOf(s.m.name(), commands)
	if err := w.tested(what, func() (err error) {
		results, err = s.inner.Apply(commands)
		if err == nil && results != nil && len(results) != len(entries) {
			err = fmt.Errorf("%d results for %d entries", len(results), len(entries))
		}
		return err
	}); err != nil {
		return nil, err
	}
	if results == nil {
		results = make([][]byte, len(entries))
	}
	for i := range entries {
		e := &entries[i]
		if e.Index <= s.applied {
			w.fail("applied in order", "%s applies entry %d after %d", s.m.name(), e.Index, s.applied)
		}
		s.term = e.Term
		s.takes(e)
		s.applied, s.chain = e.Index, link2(s.chain, e.Index, e.Data)
		s.handed[i].result, s.handed[i].hash = results[i], bytesHash(results[i])
		w.check.applied(s.m, e, results[i], s.chain)
	}
	s.unchanged()
	return results, nil
}

// applyOf names a call of Apply.
func (w *world) applyOf(who string, commands []node.Entry) string {
	first, last := &commands[0], &commands[len(commands)-1]
	if first == last {
		return fmt.Sprintf("%s applies entry %d (%s)", who, first.Index, w.cfg.describe(first.Data))
	}
	return fmt.Sprintf("%s applies entries %d (%s) to %d (%s)", who, first.Index, w.cfg.describe(first.Data), last.Index, w.cfg.describe(last.Data))
}

// unchanged looks at what the last call of Apply got and returned.
func (s *machine) unchanged() {
	for i := range s.handed {
		h := &s.handed[i]
		if !bytes.Equal(h.data, h.is) {
			s.m.w.fail("Apply leaves its entries alone", "%s: the data of entry %d is changed, or what is behind it in memory: the log holds it too. Clone it, or clip it before an append", s.m.name(), h.index)
		}
		if bytesHash(h.result) != h.hash {
			s.m.w.fail("a result stays as it is", "%s: the result of entry %d changed after Apply returned it: its caller reads it meanwhile. Return a copy", s.m.name(), h.index)
		}
	}
}

// link2 continues a chain with one command.
func link2(chain, index uint64, data []byte) uint64 {
	h := chain ^ index*0x9e3779b97f4a7c15
	h = (h ^ bytesHash(data)) * 0xff51afd7ed558ccd
	return h ^ h>>32
}

// Snapshot implements node.StateMachine. The chain goes along.
func (s *machine) Snapshot() (node.Snapshot, error) {
	c := &capture{m: s.m, applied: s.applied, chain: s.chain}
	if err := s.m.w.tested(fmt.Sprintf("%s captures a snapshot at %d", s.m.name(), s.applied), func() (err error) {
		if c.inner, err = s.inner.Snapshot(); err == nil && c.inner == nil {
			err = errNoSnapshot
		}
		return err
	}); err != nil {
		return nil, err
	}
	c.digest = s.m.w.check.state(s.m)
	return c, nil
}

// capture is a snapshot with a head of the simulator's, and the digest of the
// state that it must be of.
type capture struct {
	m              *member
	inner          node.Snapshot
	applied, chain uint64
	digest         digest
}

func (c *capture) WriteTo(to io.Writer) (int64, error) {
	var head [16]byte
	binary.LittleEndian.PutUint64(head[:], c.applied)
	binary.LittleEndian.PutUint64(head[8:], c.chain)
	if _, err := to.Write(head[:]); err != nil {
		return 0, err
	}
	var n int64
	t := &tee{to: to}
	what := fmt.Sprintf("%s writes its snapshot at %d", c.m.name(), c.applied)
	err := c.m.w.tested(what, func() (err error) {
		n, err = c.inner.WriteTo(t)
		switch {
		case t.err == nil:
			return err
		case err == nil:
			return fmt.Errorf("WriteTo returned no error when the writer did: %w", t.err)
		}
		return nil
	})
	if err = errors.Join(err, t.err); err != nil {
		return n + 16, err
	}
	c.m.w.check.written(c, t.data)
	return n + 16, nil
}

func (c *capture) Close() error {
	return c.m.w.tested(fmt.Sprintf("%s closes its snapshot at %d", c.m.name(), c.applied), c.inner.Close)
}

// tee keeps what is written, and the writer's error.
type tee struct {
	to   io.Writer
	data []byte
	err  error
}

func (t *tee) Write(p []byte) (int, error) {
	n, err := t.to.Write(p)
	t.data = append(t.data, p[:n]...)
	if err != nil {
		t.err = err
	}
	return n, err
}

// Restore implements node.StateMachine.
func (s *machine) Restore(index uint64, r io.Reader) error {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	from := &pieces{from: r}
	what := fmt.Sprintf("%s restores the snapshot at %d into a state machine at %d", s.m.name(), index, s.applied)
	err := s.m.w.tested(what, func() error { return from.explains(s.inner.Restore(index, from)) })
	if err = errors.Join(err, from.err); err != nil {
		return err
	}
	s.applied, s.chain = binary.LittleEndian.Uint64(head[:]), binary.LittleEndian.Uint64(head[8:])
	s.handed, s.term = nil, 0
	s.m.w.check.restored(s.m, index, s.applied, s.chain)
	if s.durable {
		s.save()
		s.saved.index = index
	}
	return nil
}

// pieces is a snapshot's reader as strict as readers may be: it returns less than
// was asked for. It remembers an error.
type pieces struct {
	from io.Reader
	n    int
	err  error
}

func (p *pieces) Read(b []byte) (int, error) {
	p.n++
	if most := 1 + p.n*7%1000; len(b) > most {
		b = b[:most]
	}
	n, err := p.from.Read(b)
	if err != nil && err != io.EOF {
		p.err = err
	}
	return n, err
}

// explains returns what is wrong with what Restore returned.
func (p *pieces) explains(err error) error {
	switch {
	case p.err == nil:
		return err
	case err == nil:
		return fmt.Errorf("Restore returned no error when the reader did: %w", p.err)
	}
	return nil
}
