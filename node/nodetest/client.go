package nodetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"time"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/node/internal/stepped"
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
	// floor is the highest index that any client had seen when it was called; index
	// is its own.
	floor, index uint64
	// committed is where the log has it; 0: nowhere.
	committed uint64
	// applied is what the member had applied when it answered a query.
	applied uint64
}

// opHead is what a proposal has before the command: the operation's number.
const opHead = 8

// client is a caller with one operation at a time.
type client struct {
	w      *world
	number int
	op     *op
	giveUp func() error
	// quiet: it begins nothing new.
	quiet bool
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
	if m.paused { // the client waits as long as it does
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

// submit gives an operation to its member.
func (c *client) submit(o *op) {
	w, m := c.w, o.member
	w.check.called(o)
	c.op = o
	r := core.Request{Kind: core.Read}
	if !o.query {
		data := binary.LittleEndian.AppendUint64(nil, o.id)
		r = core.Request{Kind: core.Propose, Data: core.FrameProposal(append(data, o.input...))}
	}
	w.at(w.between(w.cfg.patience/4, w.cfg.patience), "client gives up", func() {
		if c.op == o {
			c.finish(o, outcomeOf(c.giveUp()))
		}
	})
	// The answer may come at once.
	c.giveUp = func() error { return node.ErrNotCommitted }
	giveUp := m.node.Submit(r, func(a stepped.Answer) { c.answered(o, a) })
	if c.op == o {
		c.giveUp = giveUp
	}
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
		c.finish(o, outcomeOf(a.Err))
		return
	}
	o.index, o.output = a.Index, bytes.Clone(a.Data)
	if o.query {
		o.applied = o.member.machine.applied
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
	switch {
	case errors.Is(err, node.ErrUnknownOutcome), errors.Is(err, node.ErrClosed), errors.Is(err, node.ErrRemoved):
		return unknown
	default:
		return notCommitted
	}
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
	think := c.w.between(0, c.w.cfg.think)
	if out != done {
		think += c.w.cfg.tick / 2
	}
	c.later(think)
}
