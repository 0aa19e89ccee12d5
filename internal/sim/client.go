package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"time"

	"github.com/octopii/octopii/internal/check"
	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node"
)

// outcome is what a client knows of an operation.
type outcome uint8

const (
	waiting outcome = iota
	done
	// lostFor sure: certainly not committed, and never will be.
	notCommitted
	// unknown: it may be.
	unknown
)

func (o outcome) String() string {
	return [...]string{"waiting", "done", "not committed", "unknown"}[o]
}

// op is one operation of a client: a command that it proposes, or a query that it
// answers from a member's state behind a barrier.
type op struct {
	id     uint64
	client *client
	member *member
	query  bool
	input  []byte
	output []byte

	outcome outcome
	// err is what the member said, if it failed.
	err error
	// called and returned are moments, in the order of everything that clients see.
	called, returned uint64
	// known is the operation with the highest index that had returned when it was called;
	// nil: none had. index is its own.
	known *check.Operation
	index uint64
	// committed is where the log has it; 0: nowhere.
	committed uint64
	// applied is what the member had applied when it answered.
	applied uint64
	// installs is how many snapshots the member had installed when it was called.
	installs int
}

// opHead is what a proposal has before the command: the operation's number.
const opHead = 8

// client is a caller with one operation at a time.
type client struct {
	w      *world
	number int
	op     *op
	giveUp func() error
	// quiet: it begins nothing new. once: it has begun the only thing that it does.
	quiet, once bool
}

func (w *world) addClient() *client {
	c := &client{w: w, number: len(w.clients) + 1}
	w.clients = append(w.clients, c)
	c.later(w.between(0, w.cfg.think))
	return c
}

// later begins the next operation after a while; a long one when there were many.
func (c *client) later(d time.Duration) {
	if len(c.w.check.ops) >= c.w.cfg.Operations {
		d += c.w.cfg.electionTimeout()
	}
	c.w.at(d, "client", c.begin)
}

// begin calls a member, if one is there.
func (c *client) begin() {
	w := c.w
	if c.quiet || c.op != nil {
		return
	}
	var up []*member
	for _, m := range w.running() {
		if m.end.handler != nil {
			up = append(up, m)
		}
	}
	if len(up) == 0 {
		c.later(w.cfg.tick)
		return
	}
	m := up[w.rnd.IntN(len(up))]
	if !w.byHand && w.oneIn(6) {
		m = up[len(up)-1] // who came last may not be ready
	}
	if m.paused && !w.oneIn(3) { // the client waits as long as it does, mostly
		c.later(w.cfg.tick)
		return
	}
	c.call(m)
}

// call begins one operation at a member.
func (c *client) call(m *member) {
	o := &op{client: c, member: m, query: c.w.cfg.Query != nil && c.w.oneIn(3)}
	if o.query {
		o.input = c.w.cfg.Query(c.w.rnd)
	} else {
		o.input = c.w.cfg.Command(c.w.rnd)
	}
	c.submit(o)
}

// propose calls one member with a command.
func (c *client) propose(m *member) {
	c.submit(&op{client: c, member: m, input: c.w.cfg.Command(c.w.rnd)})
}

// submit gives an operation to its member.
func (c *client) submit(o *op) {
	w, m := c.w, o.member
	o.installs = m.installs
	w.check.called(o)
	c.op = o
	patience := w.between(w.cfg.patience/4, w.cfg.patience)
	calm := w.calm
	if calm {
		patience = 10 * w.cfg.electionTimeout() // votes may be split twice in a row
		if w.handing {
			patience *= 8
		}
	}
	w.at(patience, "client gives up", func() {
		if c.op != o {
			return
		}
		if calm && w.belongs(m) { // who was removed while it was away may not know
			w.fail("every call is answered", "nothing is wrong any more, and operation %d on %s gets no answer within %v: %s", o.id, m.name(), patience, w.summary())
		}
		c.finish(o, outcomeOf(c.giveUp()))
	})
	// The answer may come at once.
	c.giveUp = func() error { return node.ErrNotCommitted }
	submit := func() {
		if c.op != o {
			return
		}
		answer := func(a stepped.Answer) { c.answered(o, a) }
		var giveUp func() error
		if o.query {
			giveUp = m.node.Read(answer)
		} else {
			giveUp = m.node.Propose(append(binary.LittleEndian.AppendUint64(nil, o.id), o.input...), answer)
		}
		if c.op == o {
			c.giveUp = giveUp
		}
	}
	if m.paused { // it is the first thing that it will do
		m.after(0, "call", submit)
		return
	}
	submit()
	m.settle()
}

// answered takes in what a member says.
func (c *client) answered(o *op, a stepped.Answer) {
	if c.op != o {
		return // it gave up before
	}
	if a.Err != nil {
		o.err = a.Err
		c.w.tell(o.member, "  client %d: op %d: %v", c.number, o.id, a.Err)
		c.w.check.failed(o)
		c.finish(o, outcomeOf(a.Err))
		return
	}
	o.index, o.output, o.applied = a.Index, bytes.Clone(a.Data), o.member.machine.applied
	if o.query {
		if c.w.tested(o.member.name()+": Options.Read", func() error {
			o.output = bytes.Clone(c.w.cfg.Read(o.member.machine.inner, o.input))
			return nil
		}) != nil {
			return
		}
	}
	c.finish(o, done)
}

// outcomeOf is what an error says of a proposal.
func outcomeOf(err error) outcome {
	if errors.Is(err, node.ErrUnknownOutcome) {
		return unknown
	}
	return notCommitted
}

// lost ends an operation whose member died.
func (c *client) lost(m *member) {
	if c.op != nil && c.op.member == m {
		c.finish(c.op, unknown)
	}
}

func (c *client) finish(o *op, out outcome) {
	c.op = nil
	o.outcome = out
	c.w.check.returned(o)
	if c.once {
		return
	}
	think := c.w.between(0, c.w.cfg.think)
	if c.w.calm {
		think = c.w.between(0, c.w.cfg.electionTimeout())
		if c.w.handing {
			think = c.w.between(0, 20*time.Millisecond)
		}
	}
	if out != done {
		think += c.w.cfg.tick / 2
	}
	c.later(think)
}
