package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/anishathalye/porcupine"

	"github.com/octopii/octopii/node"
)

// registers is the state machine that the simulator brings along: registers with
// compare-and-swap, and lists that grow.
type registers struct {
	regs  [keys]uint64
	lists [keys][]uint64
}

// keys is how many registers and lists there are.
const keys = 8

// verb is what an operation does.
type verb byte

const (
	put verb = iota + 1
	swap
	push
	get  // a register, behind a barrier
	list // a list, likewise
)

var verbNames = [...]string{put: "put", swap: "cas", push: "append", get: "get", list: "list"}

func (v verb) String() string { return verbNames[v] }

// command is a command or a query.
type command struct {
	verb verb
	key  byte
	// a is the value; of a swap the one that must be there, and b the new one.
	a, b uint64
	// padding makes commands large.
	padding int
}

const commandBytes = 18

func (c command) encode() []byte {
	b := make([]byte, commandBytes+c.padding)
	b[0], b[1] = byte(c.verb), c.key
	binary.LittleEndian.PutUint64(b[2:], c.a)
	binary.LittleEndian.PutUint64(b[10:], c.b)
	return b
}

func decodeCommand(b []byte) command {
	return command{
		verb: verb(b[0]), key: b[1],
		a: binary.LittleEndian.Uint64(b[2:]), b: binary.LittleEndian.Uint64(b[10:]),
		padding: len(b) - commandBytes,
	}
}

// drawCommand draws a command. Values are small, so that a swap has a chance.
func drawCommand(rnd *rand.Rand) []byte {
	c := command{
		verb: pick(rnd, put, swap, swap, push), key: byte(rnd.IntN(keys)),
		a: rnd.Uint64N(5), b: rnd.Uint64N(5),
	}
	if c.verb == push {
		c.a = rnd.Uint64()
	}
	switch at := rnd.IntN(400); {
	case at == 0:
		c.padding = rnd.IntN(200 << 10)
	case at < 10:
		c.padding = rnd.IntN(20000)
	case at < 40:
		c.padding = rnd.IntN(1000)
	}
	return c.encode()
}

// drawQuery draws a query.
func drawQuery(rnd *rand.Rand) []byte {
	return command{verb: pick(rnd, get, get, list), key: byte(rnd.IntN(keys))}.encode()
}

// answer answers a query: a register's value, or a list's length and digest.
func (r *registers) answer(query []byte) []byte {
	c := decodeCommand(query)
	if c.verb == get {
		return binary.LittleEndian.AppendUint64(nil, r.regs[c.key])
	}
	l := r.lists[c.key]
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(len(l))), listDigest(l))
}

func listDigest(l []uint64) uint64 {
	h := uint64(len(l))
	for _, v := range l {
		h = (h ^ v) * 0x9e3779b97f4a7c15
		h ^= h >> 31
	}
	return h
}

// auditLists: lists only grow. What a query saw of one, by length and digest, is
// how the list that the whole log amounts to begins.
func auditLists(c *checker, sm node.StateMachine) {
	for _, o := range c.ops {
		if !o.query || o.outcome != done {
			continue
		}
		q := decodeCommand(o.input)
		if q.verb != list {
			continue
		}
		all := sm.(*registers).lists[q.key]
		n, seen := lengthOf(string(o.output)), binary.LittleEndian.Uint64(o.output[8:])
		if n > uint64(len(all)) || listDigest(all[:n]) != seen {
			c.w.fail("lists only grow", "operation %d saw %d values of list %d on %s, and they are not how its %d values begin", o.id, n, q.key, o.member.name(), len(all))
			return
		}
	}
}

func describe(input []byte) string {
	c := decodeCommand(input)
	return fmt.Sprintf("%s(key=%d, %d, %d)", c.verb, c.key, c.a, c.b)
}

// registerModel says what a sequential register and a sequential list do.
var registerModel = porcupine.Model{
	// Keys do not touch each other, and nor do a key's register and its list.
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := make([][]porcupine.Operation, 2*keys)
		for _, o := range history {
			c := decodeCommand(o.Input.([]byte))
			at := 2 * int(c.key)
			if c.verb == push || c.verb == list {
				at++
			}
			parts[at] = append(parts[at], o)
		}
		return slices.DeleteFunc(parts, func(p []porcupine.Operation) bool { return len(p) == 0 })
	},
	Init: func() any { return string((&registers{}).answer(command{verb: get}.encode())) },
	Step: func(state, input, output any) (bool, any) {
		c, out := decodeCommand(input.([]byte)), output.([]byte)
		switch c.verb {
		case get, list:
			return c.verb == get && state == string(out) || c.verb == list && lengthOf(state.(string)) == lengthOf(string(out)), state
		case push:
			return true, numbers(lengthOf(state.(string)) + 1)
		case put:
			return true, numbers(c.a)
		}
		if state == numbers(c.a) {
			return out[0] == 1, numbers(c.b)
		}
		return out[0] == 0, state
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%s -> %x", describe(input.([]byte)), output) },
}

func numbers(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }

// lengthOf reads the length of a list: a state counts it, an answer begins with it.
func lengthOf(s string) uint64 { return binary.LittleEndian.Uint64([]byte(s)) }

func (r *registers) Durable() (uint64, bool) { return 0, false }

func (r *registers) Apply(entries []node.Entry) ([][]byte, error) {
	results := make([][]byte, len(entries))
	for i := range entries {
		results[i] = r.apply(decodeCommand(entries[i].Data))
	}
	return results, nil
}

// apply returns one byte: whether the command did something.
func (r *registers) apply(c command) []byte {
	switch c.verb {
	case put:
		r.regs[c.key] = c.a
	case swap:
		if r.regs[c.key] != c.a {
			return []byte{0}
		}
		r.regs[c.key] = c.b
	case push:
		r.lists[c.key] = append(r.lists[c.key], c.a)
	default:
		return []byte{0}
	}
	return []byte{1}
}

func (r *registers) Snapshot() (node.Snapshot, error) {
	var b bytes.Buffer
	for i := range r.regs {
		writeNumbers(&b, r.regs[i], uint64(len(r.lists[i])))
		writeNumbers(&b, r.lists[i]...)
	}
	return bytesSnapshot(b.Bytes()), nil
}

func writeNumbers(b *bytes.Buffer, numbers ...uint64) {
	for _, n := range numbers {
		b.Write(binary.LittleEndian.AppendUint64(nil, n))
	}
}

func (r *registers) Restore(_ uint64, from io.Reader) error {
	*r = registers{}
	for i := range r.regs {
		var head [2]uint64
		if err := binary.Read(from, binary.LittleEndian, &head); err != nil {
			return err
		}
		r.regs[i], r.lists[i] = head[0], make([]uint64, head[1])
		if err := binary.Read(from, binary.LittleEndian, r.lists[i]); err != nil {
			return err
		}
	}
	return nil
}

// bytesSnapshot is a snapshot that was written already.
type bytesSnapshot []byte

func (s bytesSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s)
	return int64(n), err
}

func (bytesSnapshot) Close() error { return nil }
