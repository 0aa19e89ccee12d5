package etcdapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/octopii/octopii/proto/adminpb"
)

// A member that is cut off says so in time, however long its client would wait.
func TestEveryCallEndsInTime(t *testing.T) {
	f, c := serve(t, Config{RequestTimeout: 20 * time.Millisecond})
	put(t, c, "a", "1")
	f.set(func(f *fakeNode) { f.hang = true })
	api := pb.NewKVClient(c.ActiveConnection())
	cluster := pb.NewClusterClient(c.ActiveConnection())
	maintenance := pb.NewMaintenanceClient(c.ActiveConnection())
	admin := adminpb.NewAdminClient(c.ActiveConnection())
	key := []byte("a")
	peer := []string{"http://127.0.0.1:9"}
	calls := map[string]func(context.Context) error{
		"put":   func(ctx context.Context) error { _, err := api.Put(ctx, &pb.PutRequest{Key: key}); return err },
		"range": func(ctx context.Context) error { _, err := api.Range(ctx, &pb.RangeRequest{Key: key}); return err },
		"delete": func(ctx context.Context) error {
			_, err := api.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key})
			return err
		},
		"txn": func(ctx context.Context) error {
			_, err := api.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}}})
			return err
		},
		"write txn": func(ctx context.Context) error {
			op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key}}}
			_, err := api.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{op}})
			return err
		},
		"compact": func(ctx context.Context) error {
			_, err := api.Compact(ctx, &pb.CompactionRequest{Revision: 1, Physical: true})
			return err
		},
		"member list": func(ctx context.Context) error {
			_, err := cluster.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
			return err
		},
		"member add": func(ctx context.Context) error {
			_, err := cluster.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: peer})
			return err
		},
		"member remove": func(ctx context.Context) error {
			_, err := cluster.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 2})
			return err
		},
		"member update": func(ctx context.Context) error {
			_, err := cluster.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: 2, PeerURLs: peer})
			return err
		},
		"member promote": func(ctx context.Context) error {
			_, err := cluster.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 2})
			return err
		},
		"move leader": func(ctx context.Context) error {
			_, err := maintenance.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 2})
			return err
		},
	}
	for _, wait := range []time.Duration{time.Hour, 0} {
		ctx := t.Context()
		if wait != 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, wait)
			defer cancel()
		}
		for name, call := range calls {
			if err := call(ctx); status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCTimeout).Message() || status.Code(err) != codes.Unavailable {
				t.Errorf("%s of a client that waits %v: %v; want %v", name, wait, err, rpctypes.ErrGRPCTimeout)
			}
		}
		if _, err := admin.Membership(ctx, &adminpb.MembershipRequest{}); status.Code(err) != codes.Unavailable {
			t.Errorf("membership: %v; want Unavailable", err)
		}
	}
	if _, err := maintenance.Status(t.Context(), &pb.StatusRequest{}); err != nil {
		t.Errorf("status: %v", err)
	}
}

// raw is a codec for what no client would encode.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// A request is refused before its decoder takes many times its size.
func TestRequestsAreScanned(t *testing.T) {
	_, c := serve(t, Config{})
	field := func(n protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
	}
	deep := []byte{}
	for range 1000 {
		deep = field(2, field(4, deep))
	}
	for name, r := range map[string]struct {
		method  string
		request []byte
		code    codes.Code
		want    string
	}{
		"deep":              {"/etcdserverpb.KV/Txn", deep, codes.InvalidArgument, "too many operations"},
		"empty":             {"/etcdserverpb.KV/Txn", []byte(strings.Repeat("\x12\x00", 500_000)), codes.InvalidArgument, "too many operations"},
		"group":             {"/etcdserverpb.KV/Txn", []byte{1<<3 | 3, 1<<3 | 4}, codes.Internal, "cannot be read"},
		"URLs":              {"/etcdserverpb.Cluster/MemberAdd", []byte(strings.Repeat("\x0a\x00", 500_000)), codes.Internal, "65536 are allowed"},
		"empty compactions": {"/etcdserverpb.KV/Compact", []byte(strings.Repeat("\x08\x00", 500_000)), codes.Internal, "65536 are allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			var resp []byte
			runtime.ReadMemStats(&before)
			err := c.ActiveConnection().Invoke(t.Context(), r.method, r.request, &resp, grpc.ForceCodecV2(raw{}))
			runtime.ReadMemStats(&after)
			if status.Code(err) != r.code || !strings.Contains(err.Error(), r.want) {
				t.Errorf("%v; want %v with %q", err, r.code, r.want)
			}
			if bytes := after.TotalAlloc - before.TotalAlloc; bytes > 8<<20 {
				t.Errorf("%d bytes were allocated for a request of %d", bytes, len(r.request))
			}
		})
	}
}

// rawClient talks HTTP/2 by hand, so that it can leave answers untaken.
type rawClient struct {
	t    *testing.T
	conn net.Conn
	fr   *http2.Framer
	next uint32
}

// dialRaw connects. The client lets answers be sent as long as window says, in bytes.
func dialRaw(t *testing.T, address string, window uint32) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	c := &rawClient{t: t, conn: conn, fr: http2.NewFramer(conn, conn), next: 1}
	c.check(c.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}))
	c.check(c.fr.WriteWindowUpdate(0, 1<<30))
	return c
}

func (c *rawClient) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// rangeAll asks for all keys.
func (c *rawClient) rangeAll() {
	c.t.Helper()
	r := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Serializable: true}
	b, err := r.Marshal()
	c.check(err)
	c.headers("/etcdserverpb.KV/Range")
	c.check(c.fr.WriteData(c.next, true, append([]byte{0, 0, 0, 0, byte(len(b))}, b...)))
	c.next += 2
}

// halfPut announces a put of so many bytes, and sends those of them that the window of its
// stream allows, but for the last one. It returns the stream.
func (c *rawClient) halfPut(bytes uint32) uint32 {
	c.t.Helper()
	c.headers("/etcdserverpb.KV/Put")
	part := make([]byte, min(bytes+5-1, streamWindowBytes-1))
	binary.BigEndian.PutUint32(part[1:], bytes)
	for len(part) > 0 {
		n := min(len(part), 16<<10)
		c.check(c.fr.WriteData(c.next, false, part[:n]))
		part = part[n:]
	}
	c.next += 2
	return c.next - 2
}

// headers begins a request.
func (c *rawClient) headers(method string) {
	c.t.Helper()
	var headers bytes.Buffer
	enc := hpack.NewEncoder(&headers)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "a"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		c.check(enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
	}
	c.check(c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next, BlockFragment: headers.Bytes(), EndHeaders: true}))
}

// drain reads all that comes, and lets nothing more be sent, until the server closes
// the connection.
func (c *rawClient) drain() {
	buffer := make([]byte, 64<<10)
	for {
		if _, err := c.conn.Read(buffer); err != nil {
			return
		}
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for end := time.After(20 * time.Second); !holds(); {
		select {
		case <-look.C:
		case <-end:
			t.Fatalf("never: %s", what)
		}
	}
}

func (a *answers) usedNow() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used
}

// now is how many requests are arriving.
func (r *requests) now() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.arriving.Len()
}

func heapBytes() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Clients that ask and do not take their answers have a bounded share of the memory,
// leave room for others, and lose their connections; the memory comes back.
func TestGluttonsAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		window uint32
		reads  bool
	}{
		"nothing is read":             {1 << 30, false},
		"the stream's window is shut": {0, true},
		"a part is read":              {300 << 10, true},
	} {
		t.Run(name, func(t *testing.T) {
			const answersMax = 24 << 20
			_, client, s := serveLimited(t, Config{AnswerBytesMax: answersMax, StallTimeout: time.Second, RequestTimeout: 2 * time.Second})
			for i := range 4 {
				put(t, client, fmt.Sprint("big", i), strings.Repeat("v", 1<<20))
			}
			before := heapBytes()
			address := client.Endpoints()[0]
			var wg sync.WaitGroup
			var gluttons []*rawClient
			for range 30 {
				glutton := dialRaw(t, address, c.window)
				gluttons = append(gluttons, glutton)
				for range 20 {
					glutton.rangeAll()
				}
				if c.reads {
					wg.Go(glutton.drain)
				}
			}
			eventually(t, "the memory for answers is used", func() bool { return s.answers.usedNow() > answersMax/4 })
			for range 20 {
				if _, err := client.Get(t.Context(), "a"); err != nil {
					t.Fatalf("a small read beside the gluttons: %v", err)
				}
				if used := s.answers.usedNow(); used > answersMax {
					t.Fatalf("%d bytes are used; %d are allowed", used, answersMax)
				}
			}
			if grown := int64(heapBytes() - before); grown > 3*answersMax {
				t.Errorf("the gluttons hold %d bytes; %d are allowed for answers", grown, answersMax)
			}
			eventually(t, "all memory is given back", func() bool { return s.answers.usedNow() == 0 })
			for _, glutton := range gluttons {
				glutton.conn.Close() // some have got nothing but errors
			}
			wg.Wait()
			eventually(t, "the heap shrinks", func() bool { return heapBytes() < before+answersMax/4 })
			if resp, err := client.Get(t.Context(), "", clientv3.WithPrefix()); err != nil || len(resp.Kvs) != 4 {
				t.Errorf("a large read afterwards: %v", err)
			}
		})
	}
}

// sendGranted sends 1 MiB more of each half-sent put that the server lets go on, and
// nothing else, until the connection ends.
func (c *rawClient) sendGranted() {
	for {
		frame, err := c.fr.ReadFrame()
		if err != nil {
			return
		}
		w, ok := frame.(*http2.WindowUpdateFrame)
		if !ok || w.StreamID == 0 {
			continue
		}
		for range 64 {
			if c.fr.WriteData(w.StreamID, false, make([]byte, 16<<10)) != nil {
				return
			}
		}
	}
}

// Clients that send half of their requests have a bounded share of the memory, keep nobody
// out, and are ended; the memory comes back while their connections live.
func TestHalfSentRequestsAreBounded(t *testing.T) {
	const incomingMax = 16 << 20
	_, client, s := serveLimited(t, Config{IncomingBytesMax: incomingMax, IncomingTimeout: 5 * time.Second})
	before := heapBytes()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // when the connections are closed
	for range 6 {
		c := dialRaw(t, client.Endpoints()[0], 1<<20)
		for range 100 {
			c.halfPut(1900 << 10)
		}
		wg.Go(c.sendGranted)
	}
	eventually(t, "the memory for requests is used", func() bool { return s.requests.now() > 100 })
	for i := range 20 {
		put(t, client, "a", strings.Repeat("v", i*50<<10))
		if all := s.requests.now(); all > s.requests.arrivingMax {
			t.Fatalf("%d requests are arriving; %d are allowed", all, s.requests.arrivingMax)
		}
	}
	if grown := int64(heapBytes() - before); grown > 3*incomingMax {
		t.Errorf("half-sent requests hold %d bytes; %d are allowed", grown, incomingMax)
	}
	eventually(t, "all requests ended", func() bool { return s.requests.now() == 0 })
	eventually(t, "the heap shrinks", func() bool { return heapBytes() < before+incomingMax/4 })
	put(t, client, "a", "1")
}

// Requests that are large, or take long to be answered, are not taken for half-sent ones.
func TestWholeRequestsAreServed(t *testing.T) {
	f, client, s := serveLimited(t, Config{IncomingBytesMax: 8 << 20, IncomingTimeout: time.Minute})
	var wg sync.WaitGroup
	for i := range 2 * connReadingMax {
		wg.Go(func() {
			if _, err := client.Put(t.Context(), fmt.Sprint(i), strings.Repeat("v", 1<<20)); err != nil {
				t.Errorf("put %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	s.requests.mu.Lock()
	s.requests.timeout = time.Millisecond
	s.requests.mu.Unlock()
	f.set(func(f *fakeNode) { f.hang = true })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client.Get(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request that waits for its answer: %v", err)
	}
	eventually(t, "no place is held", func() bool { return s.requests.now() == 0 && len(s.requests.places) == 0 })
}

// What does not fit at all is refused with a word on what to do, and what does not fit
// now, with etcd's error.
func TestAnswersThatDoNotFit(t *testing.T) {
	_, c, s := serveLimited(t, Config{AnswerBytesMax: 7 << 20, RequestTimeout: 100 * time.Millisecond})
	for i := range 4 {
		put(t, c, fmt.Sprint(i), strings.Repeat("v", 1<<20))
	}
	_, err := c.Get(t.Context(), "", clientv3.WithPrefix())
	if code(err) != codes.ResourceExhausted || !strings.Contains(fmt.Sprint(err), "--answer-bytes-max") {
		t.Errorf("too large for good: %v", err)
	}
	if _, err := c.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithLimit(2)); err != nil {
		t.Errorf("in parts: %v", err)
	}
	ctx, other := s.answers.newTicket(t.Context())
	if err := other.reserve(ctx, 7<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "1"); !errors.Is(err, rpctypes.ErrTooManyRequests) {
		t.Errorf("while others have the memory: %v; want %v", err, rpctypes.ErrTooManyRequests)
	}
	time.AfterFunc(10*time.Millisecond, other.release)
	if _, err := c.Get(t.Context(), "1"); err != nil {
		t.Errorf("once they give it back: %v", err)
	}
	eventually(t, "all is given back", func() bool { return s.answers.usedNow() == 0 })
}

// Large answers are made a few at a time, and neither small ones nor writes wait for them.
func TestLargeReadsTakeTurns(t *testing.T) {
	_, c, s := serveLimited(t, Config{RequestTimeout: 200 * time.Millisecond})
	put(t, c, "large", strings.Repeat("v", 1<<20))
	for range largeReadsMax() {
		s.largeReads <- struct{}{}
	}
	if _, err := c.Get(t.Context(), "large"); !errors.Is(err, rpctypes.ErrTooManyRequests) {
		t.Errorf("a large read when others have their turn: %v; want %v", err, rpctypes.ErrTooManyRequests)
	}
	put(t, c, "small", "1")
	if _, err := c.Get(t.Context(), "small"); err != nil {
		t.Errorf("a small read: %v", err)
	}
	for range largeReadsMax() {
		<-s.largeReads
	}
	for range 3 * largeReadsMax() {
		if resp, err := c.Get(t.Context(), "large"); err != nil || len(resp.Kvs) != 1 {
			t.Errorf("a large read when it has its turn: %v", err)
		}
	}
	eventually(t, "nobody has a turn", func() bool { return len(s.largeReads) == 0 && s.answers.usedNow() == 0 })
}

// What counts is what a range returns, and not what it looks at.
func TestSmallAnswersOfLargeRanges(t *testing.T) {
	_, c, s := serveLimited(t, Config{AnswerBytesMax: 3 << 20})
	for i := range 12 {
		put(t, c, fmt.Sprint("k", i), strings.Repeat("v", 1<<20))
	}
	for name, options := range map[string][]clientv3.OpOption{
		"count only":       {clientv3.WithCountOnly()},
		"keys only":        {clientv3.WithKeysOnly()},
		"the last key":     {clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(1)},
		"the newest":       {clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend), clientv3.WithLimit(1)},
		"the first value":  {clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend), clientv3.WithLimit(1)},
		"those since then": {clientv3.WithMinModRev(13)},
	} {
		resp, err := c.Get(t.Context(), "k", append(options, clientv3.WithPrefix())...)
		if err != nil || resp.Count != 12 {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	eventually(t, "all is given back", func() bool { return s.answers.usedNow() == 0 })
}

// A write that returns more than was guessed is proposed once more, and one that
// returns too much never happens.
func TestWritesThatReturnMuch(t *testing.T) {
	f, c, s := serveLimited(t, Config{})
	put(t, c, "a", strings.Repeat("v", 1<<20))
	before, _ := f.counts()
	resp, err := c.Put(t.Context(), "a", strings.Repeat("w", 1<<20), clientv3.WithPrevKV())
	if after, _ := f.counts(); err != nil || len(resp.PrevKv.Value) != 1<<20 || after != before+2 {
		t.Fatalf("put: %v, with %d proposals", err, after-before)
	}
	for i := range 16 {
		put(t, c, fmt.Sprint("a", i), strings.Repeat("v", 1<<20))
	}
	if _, err := c.Delete(t.Context(), "a", clientv3.WithPrefix(), clientv3.WithPrevKV()); !errors.Is(err, rpctypes.ErrRequestTooLarge) {
		t.Errorf("delete of 17 MiB with the previous values: %v; want %v", err, rpctypes.ErrRequestTooLarge)
	}
	if resp, err := c.Get(t.Context(), "a", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil || resp.Count != 17 {
		t.Errorf("after it: %v keys, %v", resp.Count, err)
	}
	if _, err := c.Delete(t.Context(), "a", clientv3.WithPrefix()); err != nil {
		t.Errorf("without the previous values: %v", err)
	}
	eventually(t, "all is given back", func() bool { return s.answers.usedNow() == 0 })
}

// One connection does not get all, unless it has one answer only; those behind a
// connection that waits for itself go on.
func TestAnswersAreShared(t *testing.T) {
	a := &answers{bytesMax: 100, stallTimeout: time.Hour}
	one, other := newConnection(), newConnection()
	on := func(c *connection) *ticket { return &ticket{all: a, conn: c} }
	ended, end := context.WithCancel(t.Context())
	end()
	first := on(one)
	if err := first.reserve(t.Context(), 60); err != nil {
		t.Fatal(err)
	}
	if err := on(one).reserve(ended, 10); err != errAnswersFull {
		t.Errorf("a second answer above the share: %v", err)
	}
	waits := make(chan error)
	second := on(one)
	go func() { waits <- second.reserve(t.Context(), 10) }()
	eventually(t, "the second waits", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.queue) == 1 })
	others := on(other)
	if err := others.reserve(t.Context(), 40); err != nil {
		t.Errorf("another connection: %v", err)
	}
	if err := on(newConnection()).reserve(ended, 1); err != errAnswersFull {
		t.Errorf("when all is used: %v", err)
	}
	first.release()
	if err := <-waits; err != nil {
		t.Errorf("the second, after the first: %v", err)
	}
	go func() { waits <- on(other).reserve(t.Context(), 90) }()
	eventually(t, "it waits", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.queue) == 1 })
	ctx := context.WithValue(t.Context(), connectionKey{}, other)
	connections{answers: a}.HandleConn(ctx, &stats.ConnEnd{})
	if err := <-waits; err != errConnectionGone {
		t.Errorf("a wait on a connection that is gone: %v", err)
	}
	others.release()
	second.release()
	if a.used != 0 {
		t.Errorf("%d bytes are left", a.used)
	}
}
