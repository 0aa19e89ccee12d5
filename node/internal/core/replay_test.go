package core

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	chacha "math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// recording is a core whose Inputs are written down, with all that it gets beside them: what
// its Storage answered, and what raft drew for its election timeouts. A fresh core that gets
// the same has the same Effects.
type recording struct {
	core    *Core
	cfg     Config
	storage *tapedStorage
	draws   bytes.Buffer
	steps   []recordedStep
	// appends and applies are those that the core handed out. In an Input they come back.
	appends []*Append
	applies []*Apply
}

type recordedStep struct {
	in      Input
	effects Effects
	// installed are the labels that in.Appended came back with.
	installed []Label
}

// tapedStorage writes down what a core asks within a Step, and the answers; or gives them from
// there, if it has no Storage.
type tapedStorage struct {
	Storage
	tape []question
	// on: a Step is under way. wrong is the first question that is not the recorded one.
	on    bool
	wrong string
}

type question struct {
	text   string
	answer []any
}

func (s *tapedStorage) ask(text string, of func() []any) []any {
	if s.Storage != nil {
		a := of()
		if s.on {
			s.tape = append(s.tape, question{text, a})
		}
		return a
	}
	if len(s.tape) == 0 || s.tape[0].text != text {
		if s.wrong == "" {
			s.wrong = text
		}
		panic("another question than the recorded one: " + text)
	}
	a := s.tape[0].answer
	s.tape = s.tape[1:]
	return a
}

func answered[T any](a []any) (T, error) {
	err, _ := a[1].(error)
	return a[0].(T), err
}

func (s *tapedStorage) InitialState() (raftpb.HardState, raftpb.ConfState, error) {
	a := s.ask("InitialState", func() []any { hs, cs, err := s.Storage.InitialState(); return []any{hs, err, cs} })
	hs, err := answered[raftpb.HardState](a)
	return hs, a[2].(raftpb.ConfState), err
}

func (s *tapedStorage) Entries(lo, hi, size uint64) ([]raftpb.Entry, error) {
	return answered[[]raftpb.Entry](s.ask(fmt.Sprint("Entries ", lo, hi, size), func() []any {
		list, err := s.Storage.Entries(lo, hi, size)
		return []any{slices.Clone(list), err}
	}))
}

func (s *tapedStorage) Term(index uint64) (uint64, error) {
	return answered[uint64](s.ask(fmt.Sprint("Term ", index), func() []any { v, err := s.Storage.Term(index); return []any{v, err} }))
}

func (s *tapedStorage) LastIndex() (uint64, error) {
	return answered[uint64](s.ask("LastIndex", func() []any { v, err := s.Storage.LastIndex(); return []any{v, err} }))
}

func (s *tapedStorage) FirstIndex() (uint64, error) {
	return answered[uint64](s.ask("FirstIndex", func() []any { v, err := s.Storage.FirstIndex(); return []any{v, err} }))
}

func (s *tapedStorage) Snapshot() (raftpb.Snapshot, error) {
	return answered[raftpb.Snapshot](s.ask("Snapshot", func() []any { v, err := s.Storage.Snapshot(); return []any{v, err} }))
}

func (s *tapedStorage) Handed(index, term uint64, cs raftpb.ConfState) {
	s.ask(fmt.Sprint("Handed ", index, term, cs), func() []any { s.Storage.Handed(index, term, cs); return nil })
}

// drawing runs f with a source of chance for raft.
func drawing(from io.Reader, f func()) {
	defer func(r io.Reader) { rand.Reader = r }(rand.Reader)
	rand.Reader = from
	f()
}

func record(cfg Config) (r *recording, err error) {
	r = &recording{cfg: cfg, storage: &tapedStorage{Storage: cfg.Storage}}
	cfg.Storage = r.storage
	r.taped(func() { r.core, err = New(cfg) })
	return r, err
}

func (r *recording) taped(f func()) {
	r.storage.on = true
	drawing(io.TeeReader(rand.Reader, &r.draws), f)
	r.storage.on = false
}

func (r *recording) step(in *Input) (e *Effects) {
	s := recordedStep{in: copied(in)}
	for _, a := range in.Appended {
		s.installed = append(s.installed, a.Installed)
	}
	r.taped(func() { e = r.core.Step(in) })
	s.effects = *e
	r.steps = append(r.steps, s)
	if e.Append != nil {
		r.appends = append(r.appends, e.Append)
	}
	if e.Apply != nil {
		r.applies = append(r.applies, e.Apply)
	}
	return e
}

// copied is an Input that nobody else has a part of: the slices are their owner's again behind
// the Step, and a core writes into the room of a proposal.
func copied(in *Input) Input {
	c := *in
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice && f.Len() > 0 {
			list := reflect.MakeSlice(f.Type(), f.Len(), f.Len())
			reflect.Copy(list, f)
			f.Set(list)
		}
	}
	for i := range c.Requests {
		c.Requests[i].Data = slices.Clone(c.Requests[i].Data)
		c.Requests[i].Changes = slices.Clone(c.Requests[i].Changes)
	}
	return c
}

// replay steps a fresh core with what was recorded.
func (r *recording) replay(t *testing.T) {
	t.Helper()
	draws := bytes.NewReader(r.draws.Bytes())
	p := &replayed{of: r, calls: map[Waiter]Waiter{}}
	storage := &tapedStorage{tape: r.storage.tape}
	cfg := r.cfg
	cfg.Storage = storage
	drawing(draws, func() {
		c, err := New(cfg)
		if err != nil {
			t.Fatalf("member %d does not begin again: %v", cfg.ID, err)
		}
		p.run(t, c, storage)
	})
	if left := draws.Len(); left > 0 || len(storage.tape) > 0 {
		t.Errorf("member %d: %d bytes are not drawn, and %d questions not asked", cfg.ID, left, len(storage.tape))
	}
}

// replayed is the second life of a recorded core: its own appends, applies and callers.
type replayed struct {
	of      *recording
	appends []*Append
	applies []*Apply
	calls   map[Waiter]Waiter
}

func (p *replayed) run(t *testing.T, c *Core, storage *tapedStorage) {
	t.Helper()
	var list []Effects
	for i := range p.of.steps {
		in := p.input(&p.of.steps[i])
		e := func() *Effects {
			defer func() {
				if storage.wrong != "" {
					_ = recover()
				}
			}()
			return c.Step(&in)
		}()
		if storage.wrong != "" {
			t.Fatalf("member %d, Step %d of %d asks its storage for another thing: %s", p.of.cfg.ID, i, len(p.of.steps), storage.wrong)
		}
		if e.Append != nil {
			p.appends = append(p.appends, e.Append)
		}
		if e.Apply != nil {
			p.applies = append(p.applies, e.Apply)
		}
		list = append(list, *e)
	}
	for i := range list { // when all that comes back later has come back
		if diff := cmp.Diff(p.of.steps[i].effects, list[i], wholeEffects); diff != "" {
			t.Fatalf("member %d, Step %d of %d has other effects (-recorded +replayed):\n%s", p.of.cfg.ID, i, len(list), diff)
		}
	}
}

// wholeEffects compares all that is in Effects, callers by their names and errors by their texts.
var wholeEffects = cmp.Options{
	cmp.Exporter(func(reflect.Type) bool { return true }),
	cmp.Comparer(func(a, b Waiter) bool {
		return a == nil && b == nil || a != nil && b != nil && a.(*call).name == b.(*call).name
	}),
	cmp.Comparer(func(a, b error) bool { return a == nil && b == nil || a != nil && b != nil && a.Error() == b.Error() }),
}

// input is a recorded one with this core's own things in it.
func (p *replayed) input(s *recordedStep) Input {
	in := copied(&s.in)
	for i, a := range in.Appended {
		in.Appended[i] = p.appends[slices.Index(p.of.appends, a)]
		in.Appended[i].Installed = s.installed[i]
	}
	for i, a := range in.Applied {
		if at := slices.Index(p.of.applies, a); at >= 0 { // else it says that a snapshot was restored
			in.Applied[i] = p.applies[at]
		}
	}
	for i, w := range in.Gone {
		in.Gone[i] = p.caller(w)
	}
	for i := range in.Requests {
		in.Requests[i].Waiter = p.caller(in.Requests[i].Waiter)
	}
	return in
}

func (p *replayed) caller(of Waiter) Waiter {
	if of == nil {
		return nil
	}
	if p.calls[of] == nil {
		p.calls[of] = &call{name: of.(*call).name}
	}
	return p.calls[of]
}

// A Step is a function of the core's state and its Input: whatever happens to three members,
// a core that gets the same Inputs does the same. In the scripts likewise (TestScripts).
func TestStepsAreReplayed(t *testing.T) {
	total := map[string]int{}
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			defer func(r io.Reader) { rand.Reader = r }(rand.Reader)
			rand.Reader = chacha.NewChaCha8([32]byte{byte(seed)})
			r := randomRun{script: newScript(), t: t, chance: chacha.New(chacha.NewPCG(seed, 22)), total: total}
			r.run()
			r.replay(t)
		})
	}
	for _, what := range []string{"led", "unsorted", "given up", "refused for space", "forwarded", "left out"} {
		if total[what] == 0 {
			t.Errorf("in none of the runs something was %s: %v", what, total)
		}
	}
}

// randomRun is three members and their callers, of whom some give up.
type randomRun struct {
	*script
	t      *testing.T
	chance *chacha.Rand
	calls  []madeCall
	total  map[string]int
}

// madeCall is a call at a member.
type madeCall struct {
	call *call
	at   *scripted
}

func (r *randomRun) run() {
	start := Label{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Membership: &octopiipb.Membership{Cluster: 7, Index: 1}}
	for id := uint64(1); id <= 3; id++ {
		start.Membership.Members = append(start.Membership.Members, octopiipb.Member{ID: id, Address: fmt.Sprint("addr", id), Kind: octopiipb.Voter})
	}
	for id := uint64(1); id <= 3; id++ {
		r.members[id] = &scripted{id: id, disk: newDisk(start, raftpb.HardState{Term: 1, Commit: 1}), snapshots: map[uint64]Label{}, room: RoomFor(1 << 20)}
		r.start(r.t, r.members[id], start, start.Index)
	}
	for range 1500 {
		r.act(r.members[1+r.chance.Uint64N(3)])
		r.out.Reset()
	}
	for _, m := range r.members {
		for _, s := range m.record.steps {
			r.count(&s)
		}
	}
}

// act has something happen to a member.
func (r *randomRun) act(m *scripted) {
	switch r.chance.IntN(16) {
	case 0, 1, 2:
		r.step(m, &Input{Ticks: 1})
	case 3, 4, 5:
		r.deliver(r.t, m)
	case 6, 7:
		r.durable(m)
	case 8, 9:
		r.apply(m)
	case 10:
		r.ask(m, NewProposal(fmt.Appendf(nil, "%c%d", "+-"[r.chance.IntN(2)], len(r.calls)), nil))
	case 11:
		r.ask(m, Request{Kind: Read})
	case 12:
		if n := len(r.calls); n > 0 {
			c := r.calls[r.chance.IntN(n)]
			r.step(c.at, &Input{Gone: []Waiter{c.call}})
		}
	case 13:
		m.full, m.room = r.chance.IntN(8) == 0, RoomFor([]int64{0, 600, 2000, 1 << 20, 64 << 20}[r.chance.IntN(5)])
	case 14:
		m.inbox, m.remote = nil, nil
		r.step(m, &Input{PeersDown: []uint64{1 + r.chance.Uint64N(3)}})
	case 15:
		r.rarely(m)
	}
}

// rarely has something happen that few do.
func (r *randomRun) rarely(m *scripted) {
	switch other := 1 + r.chance.Uint64N(3); r.chance.IntN(4) {
	case 0:
		r.ask(m, Request{Kind: Transfer, To: other})
	case 1:
		r.ask(m, Request{Kind: ChangeMembership, Changes: []Change{{Op: SetPriority, Member: octopiipb.Member{ID: other, Priority: int32(r.chance.IntN(3))}}}})
	case 2:
		r.step(m, &Input{PeersUp: []PeerUp{{ID: other, Incarnation: 9, Formats: Formats{1, 1}}}})
	case 3:
		r.step(m, &Input{PeersGone: []uint64{other}, Campaign: true})
	}
}

func (r *randomRun) ask(m *scripted, q Request) {
	w := &call{name: fmt.Sprint("call ", len(r.calls))}
	r.calls = append(r.calls, madeCall{w, m})
	q.Waiter = w
	r.step(m, &Input{Requests: []Request{q}})
}

func (r *randomRun) count(s *recordedStep) {
	r.total["unsorted"] += len(s.effects.Unsorted)
	r.total["given up"] += len(s.in.Gone)
	r.total["forwarded"] += len(s.effects.Forwards)
	if s.effects.LeaderChanged {
		r.total["led"]++
	}
	for _, o := range s.effects.Outcomes {
		if o.Err == ErrNoSpace {
			r.total["refused for space"]++
		}
	}
	for _, w := range s.in.Gone {
		if w.caller().abandoned() {
			r.total["left out"]++
		}
	}
}
