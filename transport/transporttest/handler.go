package transporttest

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/octopii/octopii/transport"
)

// Handler records what a transport tells it. Its answers can be set at any
// time; without that it accepts everybody, reads snapshots to their end and
// refuses calls. All methods may be called from any goroutine.
type Handler struct {
	mu       sync.Mutex
	self     transport.Hello
	accept   func(transport.Hello) error
	snapshot func(from uint64, header []byte, body io.Reader) error
	call     func(context.Context, transport.Hello, transport.Inbound) (transport.Message, error)

	accepted         []transport.Hello
	messages         map[uint64][]transport.Inbound
	downs, gone      map[uint64]int
	beforeGone       map[uint64]int
	refusals         []transport.Refusal
	snapshots, calls int
}

var _ transport.Handler = (*Handler)(nil)

// NewHandler returns the Handler of a member of cluster 1.
func NewHandler(id uint64) *Handler {
	return &Handler{
		self:     transport.Hello{Host: transport.Host{OldestFormat: 3, NewestFormat: 5}, Cluster: 1, Node: id, Incarnation: id + 100},
		messages: make(map[uint64][]transport.Inbound),
		downs:    make(map[uint64]int),
		gone:     make(map[uint64]int),

		beforeGone: make(map[uint64]int),
	}
}

// SetAddress sets the address in Hello.
func (h *Handler) SetAddress(address string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.self.Host.Address = address
}

// SetCluster sets the cluster in Hello.
func (h *Handler) SetCluster(cluster uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.self.Cluster = cluster
}

// SetAccept sets what Accept answers; nil accepts.
func (h *Handler) SetAccept(f func(transport.Hello) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.accept = f
}

// SetSnapshot sets what HandleSnapshot does.
func (h *Handler) SetSnapshot(f func(from uint64, header []byte, body io.Reader) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snapshot = f
}

// SetCall sets what HandleCall does.
func (h *Handler) SetCall(f func(context.Context, transport.Hello, transport.Inbound) (transport.Message, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.call = f
}

// Accepted returns whom Accept was asked about so far.
func (h *Handler) Accepted() []transport.Hello {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.accepted)
}

// Received returns how many messages came from a member.
func (h *Handler) Received(from uint64) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.messages[from])
}

// Messages returns what came from a member, in order.
func (h *Handler) Messages(from uint64) []transport.Inbound {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.messages[from])
}

// Downs returns how often PeerDown was called for a member.
func (h *Handler) Downs(id uint64) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.downs[id]
}

// Gone returns how often PeerGone was called for a member.
func (h *Handler) Gone(id uint64) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone[id]
}

// ReceivedBeforeGone returns how many messages had come from a member when PeerGone
// was called for it last.
func (h *Handler) ReceivedBeforeGone(id uint64) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.beforeGone[id]
}

// Snapshots returns how many snapshots began to be handled.
func (h *Handler) Snapshots() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.snapshots
}

// Calls returns how many calls began to be handled.
func (h *Handler) Calls() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls
}

// Hello remembers something of every peer.
func (h *Handler) Hello(peer uint64) transport.Hello {
	h.mu.Lock()
	defer h.mu.Unlock()
	hello := h.self
	if peer != 0 {
		hello.Remembers = transport.Memory{Term: peer, Match: 10 * peer, Commit: 7 * peer}
	}
	return hello
}

func (h *Handler) Accept(peer transport.Hello) error {
	h.mu.Lock()
	h.accepted = append(h.accepted, peer)
	accept := h.accept
	h.mu.Unlock()
	if accept == nil {
		return nil
	}
	return accept(peer)
}

func (h *Handler) HandleMessages(from uint64, batch []transport.Inbound) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.messages[from] = append(h.messages[from], batch...)
}

func (h *Handler) HandleSnapshot(from uint64, header []byte, body io.Reader) error {
	h.mu.Lock()
	h.snapshots++
	snapshot := h.snapshot
	h.mu.Unlock()
	if snapshot == nil {
		_, err := io.Copy(io.Discard, body)
		return err
	}
	return snapshot(from, header, body)
}

func (h *Handler) HandleCall(ctx context.Context, from transport.Hello, in transport.Inbound) (transport.Message, error) {
	h.mu.Lock()
	h.calls++
	call := h.call
	h.mu.Unlock()
	if call == nil {
		return nil, errors.New("calls are not handled here")
	}
	return call(ctx, from, in)
}

// Refused implements transport.Handler.
func (h *Handler) Refused(_ transport.Hello, why transport.Refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refusals = append(h.refusals, why)
}

// Refusals returns why peers refused this member's connections.
func (h *Handler) Refusals() []transport.Refusal {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.refusals)
}

// PeerDown implements transport.Handler.
func (h *Handler) PeerDown(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.downs[id]++
}

// PeerGone implements transport.Handler.
func (h *Handler) PeerGone(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone[id]++
	h.beforeGone[id] = len(h.messages[id])
}

// Bytes is a message that is its own encoding.
type Bytes []byte

func (b Bytes) Size() int { return len(b) }

func (b Bytes) MarshalTo(to []byte) (int, error) { return copy(to, b), nil }

// stream is a snapshot body made up while it is written.
type stream struct {
	seed uint64
	size int64 // negative: endless
	err  error // at the end
}

// Stream returns size bytes that follow from seed.
func Stream(seed uint64, size int64) io.WriterTo { return stream{seed: seed, size: size} }

// Failing writes size bytes and then fails with err.
func Failing(seed uint64, size int64, err error) io.WriterTo {
	return stream{seed: seed, size: size, err: err}
}

// Endless writes until the writer fails.
func Endless() io.WriterTo { return stream{size: -1} }

func (s stream) WriteTo(w io.Writer) (int64, error) {
	chance := rand.New(rand.NewPCG(s.seed, 0))
	var piece [64 << 10]byte
	for i := range piece {
		piece[i] = byte(chance.Uint32())
	}
	for done := int64(0); ; {
		if done == s.size {
			return done, s.err
		}
		part := piece[:]
		if left := s.size - done; s.size >= 0 && left < int64(len(part)) {
			part = part[:left]
		}
		// Enough to tell every piece from every other.
		binary.BigEndian.PutUint64(piece[:], chance.Uint64())
		n, err := w.Write(part)
		done += int64(n)
		if err != nil {
			return done, err
		}
	}
}

// Sum reads r to its end and returns a checksum and the number of bytes.
func Sum(r io.Reader) (sum uint32, n int64, err error) {
	h := crc32.NewIEEE()
	n, err = io.Copy(h, r)
	return h.Sum32(), n, err
}

// StreamSum is what Sum finds in Stream(seed, size).
func StreamSum(seed uint64, size int64) uint32 {
	h := crc32.NewIEEE()
	_, _ = Stream(seed, size).WriteTo(h)
	return h.Sum32()
}
