package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/goleak"

	"github.com/octopii/octopii/node"
)

var _ node.StateMachine = (*Store)(nil)

func TestMain(m *testing.M) {
	// etcd's parts then check who holds their locks, and from where.
	os.Setenv("ETCD_VERIFY", "all")
	goleak.VerifyTestMain(m)
}

func openTest(t testing.TB, dir string, l limits) *Store {
	t.Helper()
	s, err := open(dir, nil, l)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func mustCommand(t testing.TB, r *pb.InternalRaftRequest) []byte {
	t.Helper()
	b, err := requestCommand(r, 0, ReadBytesMax)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func putCommand(t testing.TB, key, value string) []byte {
	return mustCommand(t, &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}})
}

func putOp(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func deleteOp(key, end string) *pb.RequestOp {
	r := &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func txnOp(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

// apply applies one command behind what was applied, and returns its result.
func apply(t testing.TB, s *Store, command []byte) []byte {
	t.Helper()
	results, err := s.Apply([]node.Entry{{Index: s.db.applied.index + 1, Term: 1, Data: command}})
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return results[0]
}

func get(t testing.TB, s *Store, key string) string {
	t.Helper()
	resp, err := s.Range(context.Background(), &pb.RangeRequest{Key: []byte(key)}, nil)
	if err != nil {
		t.Fatalf("range: %v", err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

func TestStoreKeepsDataAndIndexOverRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kv")
	s := openTest(t, dir, limits{batchInterval: time.Hour})
	if index, ok := s.Durable(); index != 0 || !ok {
		t.Fatalf("Durable of a new store = %d, %v; want 0, true", index, ok)
	}
	apply(t, s, putCommand(t, "a", "1"))
	apply(t, s, nil) // rejected
	if index, _ := s.Durable(); index != 0 {
		t.Fatalf("Durable before any commit = %d; want 0", index)
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	if index, _ := s.Durable(); index != 2 {
		t.Fatalf("Durable after a commit = %d; want 2", index)
	}
	apply(t, s, putCommand(t, "b", "2"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, dir, limits{})
	if index, _ := s.Durable(); index != 3 {
		t.Fatalf("Durable after a restart = %d; want 3", index)
	}
	if a, b := get(t, s, "a"), get(t, s, "b"); a != "1" || b != "2" {
		t.Fatalf("after a restart a=%q b=%q; want 1 and 2", a, b)
	}
	if _, err := s.Apply([]node.Entry{{Index: 3, Data: putCommand(t, "b", "3")}}); err == nil {
		t.Fatal("an entry was applied twice")
	}
}

// history is a sequence of commands in which some write, some do not, and some
// write several keys.
func history(t testing.TB) []node.Entry {
	var commands [][]byte
	request := func(r *pb.InternalRaftRequest) { commands = append(commands, mustCommand(t, r)) }
	for i := range 5 {
		key := fmt.Sprintf("k%d", i%3)
		commands = append(commands, putCommand(t, key, fmt.Sprint(i)))
		commands = append(commands, []byte{99}, nil)
		request(&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("lost"), Lease: 7}})
		request(&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("none"), IgnoreValue: true}})
		request(&pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("none")}})
		request(&pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{
			putOp(&pb.PutRequest{Key: []byte("x"), Value: []byte(key)}),
			putOp(&pb.PutRequest{Key: []byte("y"), Value: []byte(key)}),
			deleteOp(key, ""),
		}}})
		request(&pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{
			rangeOp(&pb.RangeRequest{Key: []byte("x")}),
		}}})
		m, err := MemberCommand(&pb.Member{ID: uint64(i + 1), ClientURLs: []string{"http://127.0.0.1:2379"}})
		if err != nil {
			t.Fatal(err)
		}
		commands = append(commands, m)
		if i%3 == 2 {
			request(&pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: int64(i)}})
		}
	}
	entries := make([]node.Entry, len(commands))
	for i, c := range commands {
		// Gaps, as raft writes entries of its own.
		entries[i] = node.Entry{Index: uint64(2*i + 3), Term: uint64(i/10 + 1), Data: c}
	}
	return entries
}

// state is what a store holds at one index.
type state struct {
	Revision int64
	Hash     Hash
	Members  int
}

func stateOf(t testing.TB, s *Store) state {
	t.Helper()
	h, err := s.Hash()
	if err != nil {
		t.Fatal(err)
	}
	members, err := s.ClientURLs()
	if err != nil {
		t.Fatal(err)
	}
	return state{Revision: s.Revision(), Hash: h, Members: len(members)}
}

// model returns the state after each entry, by its position.
func model(t testing.TB, entries []node.Entry) map[position]state {
	s := openTest(t, t.TempDir(), limits{})
	states := map[position]state{{}: stateOf(t, s)}
	for _, e := range entries {
		if _, err := s.Apply([]node.Entry{e}); err != nil {
			t.Fatal(err)
		}
		states[position{e.Index, e.Term}] = stateOf(t, s)
	}
	return states
}

// Every commit, whenever it happens, holds an index and exactly the effects of
// the entries up to it (etcd issue 13766).
func TestEveryCommitHoldsItsIndex(t *testing.T) {
	entries := history(t)
	want := model(t, entries)
	for name, l := range map[string]limits{
		"commit after every write": {batchInterval: time.Hour, batchOps: 1},
		"commit by others":         {batchInterval: time.Hour},
		"commit by time":           {batchInterval: time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t, t.TempDir(), l)
			seen := make(map[position]bool)
			for _, e := range entries {
				var during []byte
				var wg sync.WaitGroup
				wg.Go(func() { during = image(t, s) })
				_, err := s.Apply([]node.Entry{e})
				wg.Wait()
				if err != nil {
					t.Fatal(err)
				}
				seen[checkImage(t, during, want)] = true
				seen[checkImage(t, image(t, s), want)] = true
			}
			if len(seen) < len(entries) {
				t.Errorf("saw commits at %d positions only, of %d entries", len(seen), len(entries))
			}
		})
	}
}

// checkImage returns the position that a commit holds.
func checkImage(t *testing.T, image []byte, want map[position]state) position {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), image, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openTest(t, dir, limits{})
	at := s.db.applied
	expected, ok := want[at]
	if !ok {
		t.Fatalf("a commit holds position %+v, at which no entry stands", at)
	}
	if diff := cmp.Diff(expected, stateOf(t, s)); diff != "" {
		t.Fatalf("a commit says %+v and holds another state (-want +got):\n%s", at, diff)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return at
}

// Members that batch, commit and restart differently give the same results and
// end in the same state.
func TestApplyIsDeterministic(t *testing.T) {
	entries := history(t)
	one := openTest(t, t.TempDir(), limits{batchInterval: time.Hour})
	wantResults, err := one.Apply(entries)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i, e := range entries {
		other := openTest(t, dir, limits{batchOps: 1 + i%7})
		results, err := other.Apply([]node.Entry{e})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(results[0], wantResults[i]) {
			t.Fatalf("entry %d: result %x after a restart, %x without", e.Index, results[0], wantResults[i])
		}
		if i == len(entries)-1 {
			if diff := cmp.Diff(stateOf(t, one), stateOf(t, other)); diff != "" {
				t.Fatalf("states differ (-one +restarted):\n%s", diff)
			}
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCompaction(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	for i := range 10 {
		apply(t, s, putCommand(t, "a", fmt.Sprint(i)))
	}
	compact := func(rev int64) error {
		c := mustCommand(t, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: rev}})
		return DecodeResult(apply(t, s, c), new(pb.CompactionResponse))
	}
	if err := compact(100); err != FutureRev {
		t.Fatalf("compact at a future revision: %v; want %v", err, FutureRev)
	}
	if err := compact(5); err != nil {
		t.Fatal(err)
	}
	if err := compact(5); err != Compacted {
		t.Fatalf("compact twice: %v; want %v", err, Compacted)
	}
	if err := s.WaitCompacted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: 4}, nil); err != Compacted {
		t.Fatalf("range at a compacted revision: %v; want %v", err, Compacted)
	}
	if _, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: 100}, nil); err != FutureRev {
		t.Fatalf("range at a future revision: %v; want %v", err, FutureRev)
	}
	tx := s.db.be.ReadTx()
	tx.RLock()
	finished, _ := mvcc.UnsafeReadFinishedCompact(tx)
	tx.RUnlock()
	if finished != 5 {
		t.Fatalf("WaitCompacted returned when compaction had finished to revision %d; want 5", finished)
	}
}

func TestClosedStore(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, rangeErr := s.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}, nil)
	_, txnErr := s.ReadTxn(t.Context(), &pb.TxnRequest{}, nil)
	_, applyErr := s.Apply(nil)
	_, snapErr := s.Snapshot()
	_, urlsErr := s.ClientURLs()
	_, hashErr := s.Hash()
	for i, err := range []error{rangeErr, txnErr, applyErr, snapErr, urlsErr, hashErr,
		s.Restore(1, strings.NewReader("")), s.Commit(), s.WaitCompacted(t.Context())} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("call %d on a closed store: %v; want %v", i, err, ErrClosed)
		}
	}
	if total, used := s.Size(); total != 0 || used != 0 || s.Revision() != 0 {
		t.Error("a closed store has a size or a revision")
	}
}

func TestClientURLs(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	for _, m := range []*pb.Member{
		{ID: 9, ClientURLs: []string{"http://old"}},
		{ID: 2, Name: "not kept", ClientURLs: []string{"http://two", "http://zwei"}},
		{ID: 9, ClientURLs: []string{"http://nine"}},
	} {
		c, err := MemberCommand(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := DecodeResult(apply(t, s, c), nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(); err != nil && m.ID == 2 {
			t.Fatal(err)
		}
	}
	got, err := s.ClientURLs()
	if err != nil {
		t.Fatal(err)
	}
	want := []*pb.Member{
		{ID: 2, ClientURLs: []string{"http://two", "http://zwei"}},
		{ID: 9, ClientURLs: []string{"http://nine"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("client URLs (-want +got):\n%s", diff)
	}
}

// What a commit that failed would have made durable is not: the log must keep it.
func TestFailedCommitMakesNothingDurable(t *testing.T) {
	s, err := open(t.TempDir(), nil, limits{batchInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	put := func(index uint64) {
		t.Helper()
		command, err := s.RequestCommand(&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}}, ReadBytesMax)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply([]node.Entry{{Index: index, Term: 1, Data: command}}); err != nil {
			t.Fatal(err)
		}
	}
	put(2)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	put(3)
	if err := s.db.be.batch.tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(); err == nil {
		t.Error("a commit of a transaction that has ended succeeded")
	}
	if index, _ := s.Durable(); index != 2 {
		t.Errorf("durable up to %d after the commit of entry 3 failed, want 2", index)
	}
	_ = s.Close() // it failed
}
