package sim

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/octopii/octopii/internal/check"
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

// auditRegisters looks at what clients saw of the registers and lists. final is the state
// that the whole log amounts to: a query tells only the length and the digest of a
// list, which must be how the one in the end begins.
func auditRegisters(c *calls, h check.History, final node.StateMachine) error {
	var ofRegisters, ofLists check.History
	pushed := pushedValues(h)
	for _, o := range h {
		q := decodeCommand(o.Input.([]byte))
		o.Input = q.asked(pushed[o.ID])
		if out, ok := o.Output.([]byte); ok && o.Outcome == check.OK {
			switch q.verb {
			case list:
				all := final.(*registers).lists[q.key]
				n, digest := lengthOf(string(out)), binary.LittleEndian.Uint64(out[8:])
				if n > uint64(len(all)) || listDigest(all[:n]) != digest {
					c.w.fail("lists only grow", "operation %d saw %d values of list %d on %s, and they are not how its %d values begin", o.ID, n, q.key, c.ops[o.ID-1].member.name(), len(all))
					return nil
				}
				o.Output = listValues(all[:n])
			case get:
				o.Output = registerValue(binary.LittleEndian.Uint64(out))
			default:
				o.Output = out[0] == 1
			}
		}
		if q.verb == push || q.verb == list {
			ofLists = append(ofLists, o)
		} else {
			ofRegisters = append(ofRegisters, o)
		}
	}
	if err := check.Lists(ofLists); err != nil {
		return err
	}
	return check.Registers(ofRegisters, porcupineTimeout)
}

// asked is the operation in the words of package check. pushed is the name of the value
// that it pushes.
func (c command) asked(pushed string) any {
	key := fmt.Sprint(c.key)
	switch c.verb {
	case put:
		return check.Put{Key: key, Value: registerValue(c.a)}
	case swap:
		return check.Swap{Key: key, Old: registerValue(c.a), New: registerValue(c.b)}
	case push:
		return check.Append{Key: key, Value: pushed}
	case list:
		return check.ReadList{Key: key}
	}
	return check.Get{Key: key}
}

// registerValue is a register's value; one that was never set is 0 here, and empty there.
func registerValue(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// listValues names the values of a list. One that is there twice has two names.
func listValues(numbers []uint64) []string {
	values, times := make([]string, len(numbers)), map[uint64]int{}
	for i, n := range numbers {
		times[n]++
		values[i] = listValue(n, times[n])
	}
	return values
}

func listValue(n uint64, time int) string {
	if time == 1 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d for the %d. time", n, time)
}

// pushedValues names the values that operations push as listValues does, by their order in
// the log.
func pushedValues(h check.History) map[uint64]string {
	type value struct {
		key byte
		n   uint64
	}
	names, times := map[uint64]string{}, map[value]int{}
	byIndex := slices.SortedFunc(slices.Values(h), func(a, b check.Operation) int { return cmp.Compare(a.Index, b.Index) })
	for _, o := range byIndex {
		q := decodeCommand(o.Input.([]byte))
		switch v := (value{q.key, q.a}); {
		case q.verb != push:
		case o.Outcome == check.OK:
			times[v]++
			names[o.ID] = listValue(q.a, times[v])
		default: // it is in no list
			names[o.ID] = fmt.Sprintf("%d of operation %d", q.a, o.ID)
		}
	}
	return names
}

func describe(input []byte) string {
	c := decodeCommand(input)
	return fmt.Sprintf("%s(key=%d, %d, %d)", c.verb, c.key, c.a, c.b)
}

// lengthOf reads the length of a list, with which an answer begins.
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
