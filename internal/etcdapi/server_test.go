package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeNode is a cluster of one without a log.
type fakeNode struct {
	store *kv.Store

	mu sync.Mutex
	// proposals and barriers count what succeeded.
	proposals, barriers int
	index               uint64
	status              node.Status
	// fails are returned by the next verbs, in order.
	fails []error
	// hang: verbs wait for the end of their context.
	hang bool
	// behindBarrier is what this member learns before a barrier returns; nil: nothing.
	behindBarrier func(*fakeNode)
}

func (f *fakeNode) next(ctx context.Context) error {
	if f.hang {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", node.ErrUnknownOutcome, ctx.Err())
	}
	if len(f.fails) == 0 {
		return nil
	}
	err := f.fails[0]
	f.fails = f.fails[1:]
	return err
}

func (f *fakeNode) Propose(ctx context.Context, data []byte) (node.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.next(ctx); err != nil {
		return node.Result{}, err
	}
	f.proposals++
	f.index++
	results, err := f.store.Apply([]node.Entry{{Index: f.index, Term: 3, Data: data}})
	if err != nil {
		return node.Result{}, err
	}
	return node.Result{Index: f.index, Data: results[0]}, nil
}

func (f *fakeNode) ReadBarrier(ctx context.Context, _ node.ReadLevel) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.next(ctx); err != nil {
		return 0, err
	}
	f.barriers++
	if f.behindBarrier != nil {
		f.behindBarrier(f)
	}
	return f.index, nil
}

// Change changes nothing, and counts as a proposal.
func (f *fakeNode) Change(ctx context.Context, _ node.Change) (node.Membership, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.next(ctx); err != nil {
		return node.Membership{}, err
	}
	f.proposals++
	return f.status.Membership, nil
}

func (f *fakeNode) Plan(ctx context.Context, _ node.Change) (node.Plan, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return node.Plan{Before: f.status.Membership, After: f.status.Membership}, f.next(ctx)
}

func (f *fakeNode) SetFailoverByTimeout(ctx context.Context, on bool) (node.Membership, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Membership.FailoverByTimeout = on
	return f.status.Membership, f.next(ctx)
}

func (f *fakeNode) TransferLeadership(ctx context.Context, to uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.next(ctx); err != nil {
		return err
	}
	f.status.Leader = to
	return nil
}

func (f *fakeNode) Status() node.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// set changes the fake under its lock.
func (f *fakeNode) set(change func(*fakeNode)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeNode) counts() (proposals, barriers int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.proposals, f.barriers
}

// serve starts a server of a fake node, and a client of it.
func serve(t *testing.T, cfg Config) (*fakeNode, *clientv3.Client) {
	t.Helper()
	f, c, _ := serveLimited(t, cfg)
	return f, c
}

// serveLimited also returns the server.
func serveLimited(t *testing.T, cfg Config) (*fakeNode, *clientv3.Client, *server) {
	t.Helper()
	store, err := kv.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeNode{store: store, status: node.Status{
		ID: 1, Cluster: 77, Role: node.Leader, Term: 3, Leader: 1, Commit: 9, Applied: 8,
		Membership: node.Membership{Members: []node.Member{
			{ID: 1, Name: "one", Address: "127.0.0.1:2380"},
			{ID: 2, Name: "two", Address: "127.0.0.1:22380", Learner: true},
		}},
	}}
	cfg.Node, cfg.Store = f, store
	s, g := newServer(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{l.Addr().String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		g.Stop()
		if err := errors.Join(<-served, store.Close()); err != nil {
			t.Error(err)
		}
	})
	return f, client, s
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := c.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

func TestPutGetDelete(t *testing.T) {
	f, c := serve(t, Config{})
	put(t, c, "a", "1")
	again, err := c.Put(t.Context(), "a", "2", clientv3.WithPrevKV())
	if err != nil {
		t.Fatal(err)
	}
	if again.PrevKv == nil || string(again.PrevKv.Value) != "1" {
		t.Errorf("put with prev_kv returned %v; want 1", again.PrevKv)
	}
	want := &pb.ResponseHeader{ClusterId: node.PublicClusterID(77), MemberId: 1, Revision: 3, RaftTerm: 3}
	if diff := cmp.Diff(want, again.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	got, err := c.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "2" || got.Kvs[0].Version != 2 || got.Header.Revision != 3 {
		t.Errorf("get returned %v", got)
	}
	if _, err := c.Put(t.Context(), "a", "", clientv3.WithIgnoreValue()); err != nil {
		t.Errorf("put with ignore_value: %v", err)
	}
	deleted, err := c.Delete(t.Context(), "a", clientv3.WithPrevKV())
	if err != nil {
		t.Fatal(err)
	}
	if deleted.Deleted != 1 || string(deleted.PrevKvs[0].Value) != "2" {
		t.Errorf("delete returned %v", deleted)
	}
	if proposals, barriers := f.counts(); proposals != 4 || barriers != 1 {
		t.Errorf("%d proposals and %d barriers; want 4 and 1", proposals, barriers)
	}
}

func TestRangeOptions(t *testing.T) {
	_, c := serve(t, Config{})
	// Revisions 2 to 6; b is written twice.
	for _, kv := range []string{"a=5", "b=4", "c=3", "d=2", "b=1"} {
		key, value, _ := strings.Cut(kv, "=")
		put(t, c, key, value)
	}
	for name, q := range map[string]struct {
		key  string
		opts []clientv3.OpOption
		want string
		more bool
	}{
		"all":                 {"", []clientv3.OpOption{clientv3.WithPrefix()}, "a=5 b=1 c=3 d=2", false},
		"range":               {"b", []clientv3.OpOption{clientv3.WithRange("d")}, "b=1 c=3", false},
		"from key":            {"c", []clientv3.OpOption{clientv3.WithFromKey()}, "c=3 d=2", false},
		"limit":               {"a", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithLimit(2)}, "a=5 b=1", true},
		"earlier revision":    {"b", []clientv3.OpOption{clientv3.WithRev(3)}, "b=4", false},
		"descending by value": {"a", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortDescend)}, "a=5 c=3 d=2 b=1", false},
		"last by revision":    {"", clientv3.WithLastRev(), "b=1", true},
		"min mod revision":    {"a", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithMinModRev(5)}, "b=1 d=2", false},
		"max mod revision":    {"a", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithMaxModRev(4)}, "a=5 c=3", false},
		"min create revision": {"a", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithMinCreateRev(4)}, "c=3 d=2", false},
		"max create revision": {"a", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithMaxCreateRev(3)}, "a=5 b=1", false},
		"keys only":           {"a", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithKeysOnly()}, "a= b= c= d=", false},
		"count only":          {"a", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithCountOnly()}, "", false},
		"serializable":        {"a", []clientv3.OpOption{clientv3.WithSerializable()}, "a=5", false},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := c.Get(t.Context(), q.key, q.opts...)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, kv := range resp.Kvs {
				got = append(got, fmt.Sprintf("%s=%s", kv.Key, kv.Value))
			}
			if g := strings.Join(got, " "); g != q.want || resp.More != q.more {
				t.Errorf("got %q, more %v; want %q, more %v", g, resp.More, q.want, q.more)
			}
			if name == "count only" && resp.Count != 4 {
				t.Errorf("count %d; want 4", resp.Count)
			}
		})
	}
}

func TestTxn(t *testing.T) {
	f, c := serve(t, Config{})
	put(t, c, "a", "1")
	isOne := clientv3.Compare(clientv3.Value("a"), "=", "1")
	resp, err := c.Txn(t.Context()).If(isOne).
		Then(clientv3.OpPut("a", "2"), clientv3.OpTxn([]clientv3.Cmp{isOne},
			[]clientv3.Op{clientv3.OpPut("b", "then")}, []clientv3.Op{clientv3.OpPut("b", "else")}), clientv3.OpGet("b")).
		Else(clientv3.OpGet("a")).Commit()
	if err != nil {
		t.Fatal(err)
	}
	if !resp.Succeeded || len(resp.Responses) != 3 || resp.Header.Revision != 3 {
		t.Fatalf("transaction returned %v", resp)
	}
	if b := resp.Responses[2].GetResponseRange().Kvs[0].Value; string(b) != "then" {
		t.Errorf("the inner transaction put %q; etcd compares before it writes: want then", b)
	}
	before, barriersBefore := f.counts()
	read, err := c.Txn(t.Context()).If(isOne).Then(clientv3.OpGet("b")).Else(clientv3.OpGet("a")).Commit()
	if err != nil {
		t.Fatal(err)
	}
	if read.Succeeded || string(read.Responses[0].GetResponseRange().Kvs[0].Value) != "2" {
		t.Errorf("read-only transaction returned %v", read)
	}
	if _, err := c.Txn(t.Context()).Then(clientv3.OpGet("b", clientv3.WithSerializable())).Commit(); err != nil {
		t.Error(err)
	}
	if after, barriers := f.counts(); after != before || barriers != barriersBefore+1 {
		t.Errorf("two read-only transactions made %d proposals and %d barriers; want 0, and 1 for the linearizable one",
			after-before, barriers-barriersBefore)
	}
}

func TestCompact(t *testing.T) {
	_, c := serve(t, Config{})
	for i := range 5 {
		put(t, c, "a", fmt.Sprint(i))
	}
	resp, err := c.Compact(t.Context(), 4, clientv3.WithCompactPhysical())
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Revision != 6 {
		t.Errorf("compact returned revision %d; want 6", resp.Header.Revision)
	}
	if _, err := c.Get(t.Context(), "a", clientv3.WithRev(3)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("get at a compacted revision: %v; want %v", err, rpctypes.ErrCompacted)
	}
	if _, err := c.Get(t.Context(), "a", clientv3.WithRev(99)); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("get at a future revision: %v; want %v", err, rpctypes.ErrFutureRev)
	}
	if _, err := c.Compact(t.Context(), 4); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("compact again: %v; want %v", err, rpctypes.ErrCompacted)
	}
}

func TestRefusedRequests(t *testing.T) {
	f, c := serve(t, Config{RequestBytesMax: 1000})
	many := make([]clientv3.Op, 129)
	for i := range many {
		many[i] = clientv3.OpGet(fmt.Sprint(i))
	}
	txn := func(ops ...clientv3.Op) error {
		_, err := c.Txn(t.Context()).Then(ops...).Commit()
		return err
	}
	_, emptyKey := c.Put(t.Context(), "", "v")
	_, large := c.Put(t.Context(), "a", strings.Repeat("v", 1000))
	_, lease := c.Put(t.Context(), "a", "v", clientv3.WithLease(5))
	_, noKey := c.Put(t.Context(), "none", "", clientv3.WithIgnoreValue())
	for name, e := range map[string]struct{ got, want error }{
		"empty key":         {emptyKey, rpctypes.ErrEmptyKey},
		"too large":         {large, rpctypes.ErrRequestTooLarge},
		"unknown lease":     {lease, rpctypes.ErrLeaseNotFound},
		"key to be ignored": {noKey, rpctypes.ErrKeyNotFound},
		"duplicate key":     {txn(clientv3.OpPut("a", "1"), clientv3.OpPut("a", "2")), rpctypes.ErrDuplicateKey},
		"too many ops":      {txn(many...), rpctypes.ErrTooManyOps},
		"future revision":   {txn(clientv3.OpPut("a", "1"), clientv3.OpGet("b", clientv3.WithRev(99))), rpctypes.ErrFutureRev},
	} {
		if !errors.Is(e.got, e.want) {
			t.Errorf("%s: %v; want %v", name, e.got, e.want)
		}
	}
	if f.store.Revision() != 1 {
		t.Error("a refused request changed the store")
	}
}

func TestUnimplemented(t *testing.T) {
	_, c := serve(t, Config{})
	_, grant := c.Grant(t.Context(), 10)
	_, auth := c.AuthStatus(t.Context())
	_, disarm := c.AlarmDisarm(t.Context(), &clientv3.AlarmMember{MemberID: 1, Alarm: pb.AlarmType_NOSPACE})
	watched := <-c.Watch(t.Context(), "a")
	for name, e := range map[string]struct {
		err  error
		says string
	}{
		"lease": {grant, "LeaseGrant"},
		"auth":  {auth, "AuthStatus"},
		"alarm": {disarm, "DEACTIVATE"},
		"watch": {watched.Err(), "Watch"},
	} {
		if code(e.err) != codes.Unimplemented || !strings.Contains(e.err.Error(), e.says) {
			t.Errorf("%s: %v; want Unimplemented with %s", name, e.err, e.says)
		}
	}
}

func code(err error) codes.Code {
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) {
		return etcd.Code()
	}
	return status.Code(err)
}

func TestStatusAndMembers(t *testing.T) {
	f, c := serve(t, Config{})
	st, err := c.Status(t.Context(), c.Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	if st.Leader != 1 || st.RaftIndex != 9 || st.RaftAppliedIndex != 8 || st.RaftTerm != 3 || st.DbSize == 0 || st.IsLearner {
		t.Errorf("status %v", st)
	}
	alarms, err := c.AlarmList(t.Context())
	if err != nil || len(alarms.Alarms) != 0 {
		t.Errorf("alarms %v, %v; want none", alarms, err)
	}
	urls := []string{"http://127.0.0.1:2379"}
	for range 2 {
		if err := Publish(t.Context(), f, f.store, 1, urls); err != nil {
			t.Fatal(err)
		}
	}
	if proposals, _ := f.counts(); proposals != 1 {
		t.Errorf("the same URLs were published %d times; want once", proposals)
	}
	list, err := c.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []*pb.Member{
		{ID: 1, Name: "one", PeerURLs: []string{"http://127.0.0.1:2380"}, ClientURLs: urls},
		{ID: 2, Name: "two", PeerURLs: []string{"http://127.0.0.1:22380"}, IsLearner: true},
	}
	if diff := cmp.Diff(want, list.Members); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

func TestPublishTriesAgain(t *testing.T) {
	f, _ := serve(t, Config{})
	f.set(func(f *fakeNode) {
		f.fails = []error{node.ErrUninitialized, &node.NotLeaderError{}, node.ErrOverloaded}
	})
	if err := Publish(t.Context(), f, f.store, 1, []string{"http://a"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.set(func(f *fakeNode) { f.fails = []error{node.ErrOverloaded} })
	if err := Publish(ctx, f, f.store, 1, []string{"http://b"}); !errors.Is(err, node.ErrOverloaded) {
		t.Errorf("Publish with an ended context: %v; want the last error", err)
	}
}

// Whatever the node says becomes a status that clients understand.
func TestNodeErrors(t *testing.T) {
	f, c := serve(t, Config{})
	kv := pb.NewKVClient(c.ActiveConnection())
	for name, e := range map[string]struct {
		err  error
		want error
	}{
		"uninitialized": {node.ErrUninitialized, errUninitialized},
		"removed":       {node.ErrRemoved, errRemoved},
		"overloaded":    {node.ErrOverloaded, rpctypes.ErrGRPCRequestTooManyRequests},
		"too large":     {node.ErrTooLarge, rpctypes.ErrGRPCRequestTooLarge},
		"no space":      {node.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
		"unknown":       {fmt.Errorf("%w: why", node.ErrUnknownOutcome), rpctypes.ErrGRPCTimeout},
		"stopped early": {fmt.Errorf("%w: %w", node.ErrNotCommitted, node.ErrClosed), rpctypes.ErrGRPCStopped},
		"stopped late":  {fmt.Errorf("%w: %w", node.ErrUnknownOutcome, node.ErrClosed), rpctypes.ErrGRPCTimeout},
		"closed":        {node.ErrClosed, rpctypes.ErrGRPCStopped},
		"other":         {errors.New("other"), status.Error(codes.Unknown, "other")},
	} {
		t.Run(name, func(t *testing.T) {
			f.set(func(f *fakeNode) { f.fails = []error{e.err, e.err} })
			_, putErr := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
			_, getErr := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
			for _, err := range []error{putErr, getErr} {
				if !errors.Is(err, e.want) {
					t.Errorf("answer %v; want %v", err, e.want)
				}
			}
		})
	}
}

// What was certainly not committed is proposed again, as long as the client waits.
func TestProposalsAreRetriedWhenSafe(t *testing.T) {
	f, c := serve(t, Config{})
	f.set(func(f *fakeNode) { f.fails = []error{node.ErrNotCommitted, &node.NotLeaderError{}} })
	put(t, c, "a", "1")

	f.set(func(f *fakeNode) { f.fails = nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.set(func(f *fakeNode) { f.fails = []error{node.ErrNotCommitted} })
	if _, err := propose(ctx, f, nil); !errors.Is(err, node.ErrNotCommitted) {
		t.Errorf("a proposal whose client has gone: %v; want %v", err, node.ErrNotCommitted)
	}

	// A member that has stopped takes nothing, however often it is asked.
	for _, stopped := range []error{node.ErrClosed, node.ErrRemoved} {
		f.set(func(f *fakeNode) { f.fails = []error{fmt.Errorf("%w: %w", node.ErrNotCommitted, stopped)} })
		if _, err := propose(t.Context(), f, nil); !errors.Is(err, stopped) {
			t.Errorf("a proposal on a member that has stopped: %v; want %v", err, stopped)
		}
	}
}

func TestTimeouts(t *testing.T) {
	f, c := serve(t, Config{RequestTimeout: 20 * time.Millisecond})
	f.set(func(f *fakeNode) { f.hang = true })
	_, err := c.Put(t.Context(), "a", "1")
	if !errors.Is(err, rpctypes.ErrTimeout) {
		t.Errorf("no deadline of the client: %v; want %v", err, rpctypes.ErrTimeout)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = c.Put(ctx, "a", "1")
	if !errors.Is(err, context.DeadlineExceeded) && code(err) != codes.DeadlineExceeded {
		t.Errorf("the client's own deadline: %v; want DeadlineExceeded", err)
	}
}

func TestRequireLeaderAndUninitialized(t *testing.T) {
	f, c := serve(t, Config{})
	f.set(func(f *fakeNode) { f.status.Leader, f.status.Role = 0, node.Uninitialized })
	kv := pb.NewKVClient(c.ActiveConnection())
	_, err := kv.Put(clientv3.WithRequireLeader(t.Context()), &pb.PutRequest{Key: []byte("a")})
	if !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
		t.Errorf("with a leader required: %v; want %v", err, rpctypes.ErrGRPCNoLeader)
	}
	_, err = kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Serializable: true})
	if !errors.Is(err, errUninitialized) {
		t.Errorf("a stale read of nothing: %v; want %v", err, errUninitialized)
	}
	st, err := c.Status(t.Context(), c.Endpoints()[0])
	if err != nil || len(st.Errors) != 1 {
		t.Errorf("status without a leader: %v, %v; want one error in it", st, err)
	}
	f.set(func(f *fakeNode) {
		f.status.Leader, f.status.Branches = 1, []node.Branch{{ID: 0xabc, First: 51, Last: 93, Term: 4}}
		f.status.Membership.Members = []node.Member{{ID: 0xabc}}
	})
	st, err = c.Status(t.Context(), c.Endpoints()[0])
	if err != nil || len(st.Errors) != 1 || !strings.Contains(st.Errors[0], "a majority forgot entries 51 to 93, which member abc has: keep its files") {
		t.Errorf("status where a majority forgot: %v, %v; want it in the errors", st, err)
	}
	f.set(func(f *fakeNode) { f.status.Membership.Members = []node.Member{{ID: 1}} })
	st, err = c.Status(t.Context(), c.Endpoints()[0])
	if err != nil || len(st.Errors) != 1 || !strings.Contains(st.Errors[0], "51 to 93, which member abc had, which is no member any more: its files are in quarantine/") {
		t.Errorf("status where that member was replaced: %v, %v; want where its files are", st, err)
	}
}

// A member without a majority tells who is missing.
func TestStatusNamesWhoIsMissing(t *testing.T) {
	f, c := serve(t, Config{})
	f.set(func(f *fakeNode) {
		f.status.Leader = 0
		f.status.Membership.Members = []node.Member{{ID: 1}, {ID: 2, Name: "n2", Address: "b:1"}}
		f.status.Missing = []node.Missing{{Member: f.status.Membership.Members[1], Silent: 3 * time.Second, Heard: true}}
	})
	st, err := c.Status(t.Context(), c.Endpoints()[0])
	if err != nil || len(st.Errors) != 2 || !strings.Contains(st.Errors[1], "missing: n2 (2) at b:1, silent for 3s; start them") {
		t.Errorf("status without a majority: %v, %v; want an error that names n2", st, err)
	}
}

// Clients and operators know a cluster by a number that is always the same, and is not the one that
// members name in their handshakes.
func TestPublicClusterID(t *testing.T) {
	if node.PublicClusterID(0) != 0 {
		t.Error("a member of no cluster has a cluster")
	}
	one, other := node.PublicClusterID(77), node.PublicClusterID(78)
	if one == 77 || one == other || one != 0x27ca27ebe90a5516 {
		t.Errorf("77 is %#x for clients, and 78 is %#x", one, other)
	}
}

// A write at a member that doubts its own log is tried for a while, as the doubt may be
// over soon, and then refused with the reason and not with the end of its time.
func TestWritesOfDoubtfulMembers(t *testing.T) {
	f, c := serve(t, Config{})
	doubts := fmt.Errorf("%w: %w", node.ErrNotCommitted, node.ErrSuspect)
	f.set(func(f *fakeNode) { f.fails = []error{doubts, doubts} })
	put(t, c, "k", "v")
	f.set(func(f *fakeNode) { f.fails = slices.Repeat([]error{doubts}, 1000) })
	kvc := pb.NewKVClient(c.ActiveConnection()) // without the client's own retries
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	_, err := kvc.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	if status.Code(err) != codes.Unavailable || !strings.Contains(fmt.Sprint(err), "may have lost entries") {
		t.Errorf("a write at a member that doubts for long: %v", err)
	}
}

// A member that has no room for the snapshot that it needs says what to do.
func TestStatusSaysThatASnapshotHasNoRoom(t *testing.T) {
	f, c := serve(t, Config{})
	f.set(func(f *fakeNode) { f.status.NoRoomForSnapshot = true })
	st, err := c.Status(t.Context(), c.Endpoints()[0])
	if err != nil || len(st.Errors) != 1 || !strings.Contains(st.Errors[0], "enlarge the volume") {
		t.Errorf("status of a member without room for a snapshot: %v, %v; want one error that says what to do", st, err)
	}
}
