package etcdapi

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/proto/adminpb"
)

// A linearizable list of members shows what this member learnt before its barrier
// returned, and any other list needs no barrier.
func TestMembersBehindTheBarrier(t *testing.T) {
	f, c := serve(t, Config{})
	f.set(func(f *fakeNode) {
		f.behindBarrier = func(f *fakeNode) {
			f.status.Membership.Members = []node.Member{{ID: 9, Name: "nine", Address: "127.0.0.1:9"}}
		}
	})
	cluster := pb.NewClusterClient(c.ActiveConnection())
	for _, linearizable := range []bool{false, true} {
		list, err := cluster.MemberList(t.Context(), &pb.MemberListRequest{Linearizable: linearizable})
		if err != nil {
			t.Fatal(err)
		}
		if fresh := list.Members[0].ID == 9; fresh != linearizable {
			t.Errorf("linearizable: %v: the list is %v", linearizable, list.Members)
		}
	}
}

// A member that applies nothing for want of space answers what it has applied. A linearizable
// read that needs more fails with the reason, long before its time is over and so that clients
// ask another member.
func TestReadsWhileNothingIsApplied(t *testing.T) {
	const why = "this member's volume is full"
	var asked, freed atomic.Int64
	f, c := serve(t, Config{RequestTimeout: time.Hour, stuck: func() string {
		if asked.Add(1); freed.Load() > 0 {
			return ""
		}
		return why
	}})
	store := pb.NewKVClient(c.ActiveConnection())
	read := func(serializable bool) error {
		_, err := store.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Serializable: serializable})
		return err
	}
	if err := read(false); err != nil || asked.Load() == 0 {
		t.Errorf("a read of what is applied: %v", err)
	}
	f.set(func(f *fakeNode) { f.hang = true })
	if err := read(false); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), why) {
		t.Errorf("a read that needs what is not applied: %v, want Unavailable and the reason", err)
	}
	if err := read(true); err != nil {
		t.Errorf("a serializable read: %v", err)
	}
	f.set(func(f *fakeNode) {
		f.hang, f.fails = false, []error{node.ErrUnknownOutcome}
	})
	if err := read(false); status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), why) {
		t.Errorf("a read that fails at once for another reason: %v, want that reason", err)
	}
	freed.Store(1)
	if err := read(false); err != nil {
		t.Errorf("a read when there is space again: %v", err)
	}
}

// A change of membership, and a transfer, from a client that says nothing of how long it
// waits ends like every other call.
func TestSlowCallsWithoutADeadlineEndInTime(t *testing.T) {
	f, c := serve(t, Config{RequestTimeout: 20 * time.Millisecond})
	f.set(func(f *fakeNode) { f.hang = true })
	admin := adminpb.NewAdminClient(c.ActiveConnection())
	ctx, cancel := context.WithCancel(t.Context())
	giveUp := time.AfterFunc(20*time.Second, cancel) // no deadline: the server does not see it
	defer giveUp.Stop()
	defer cancel()
	_, err := admin.ChangeMembership(ctx, &adminpb.ChangeMembershipRequest{Verb: string(node.VerbRemove), Member: info(2)})
	if status.Code(err) == codes.Canceled {
		t.Errorf("a change of membership without a deadline does not end: %v", err)
	}
	_, err = admin.TransferLeadership(ctx, &adminpb.TransferLeadershipRequest{To: 2})
	if status.Code(err) == codes.Canceled {
		t.Errorf("a transfer without a deadline does not end: %v", err)
	}
}

// Of several members that are new the one at the address is returned, wherever it stands;
// without one, any that is new, and never one that was there.
func TestAddedIsTheOneAtTheAddress(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		address := func(id uint64) string { return string(rune('a' + id)) }
		var before, after node.Membership
		for id := range uint64(3) {
			before.Members = append(before.Members, node.Member{ID: id + 1, Address: address(id)})
		}
		after.Members = append(after.Members, before.Members...)
		isNew := map[uint64]string{}
		for id := range uint64(r.IntN(4)) {
			isNew[id+4] = address(id + 3)
			after.Members = append(after.Members, node.Member{ID: id + 4, Address: address(id + 3)})
		}
		r.Shuffle(len(after.Members), func(i, j int) { after.Members[i], after.Members[j] = after.Members[j], after.Members[i] })
		asked := address(r.Uint64N(7))
		got, ok := added(asked, before, after)
		if ok != (len(isNew) > 0) {
			t.Fatalf("seed %d: added at %s: %v; want one: %v", seed, asked, ok, len(isNew) > 0)
		}
		if !ok {
			continue
		}
		if _, found := isNew[got.ID]; !found {
			t.Fatalf("seed %d: member %d was there before", seed, got.ID)
		}
		for id, at := range isNew {
			if at == asked && got.ID != id {
				t.Fatalf("seed %d: member %d was added at %s, and %d is returned", seed, id, asked, got.ID)
			}
		}
	}
}

// A member that published its URLs long ago has a barrier all the same before it says that
// clients can reach it.
func TestPublishedBehindABarrier(t *testing.T) {
	f, _ := serve(t, Config{})
	urls := []string{"http://a"}
	for round := range 3 {
		_, before := f.counts()
		if err := Publish(t.Context(), f, f.store, 1, urls); err != nil {
			t.Fatal(err)
		}
		if proposals, barriers := f.counts(); barriers == before || proposals != 1 {
			t.Errorf("round %d: %d barriers and %d proposals in all; want a barrier each time, and one proposal", round, barriers, proposals)
		}
	}
}

// However answers are granted and given back, they do not take more than there is, and
// those of one connection not more than its share, unless it is one answer.
func TestGrantsKeepToTheShares(t *testing.T) {
	const most = 64 << 20
	var granted, shared, refused int // of those that are counted; shared: with another answer of the connection
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		a := &answers{bytesMax: most, stallTimeout: time.Hour}
		conns := []*connection{{}, {}, {}}
		var tickets []*ticket
		for range 8 {
			tickets = append(tickets, &ticket{all: a, conn: conns[r.IntN(len(conns))]})
		}
		turns := make(chan struct{}, len(tickets))
		for range 100 {
			x := tickets[r.IntN(len(tickets))]
			if r.IntN(4) == 0 {
				x.release()
				x.wanted = 0
				continue
			}
			if x.turn == nil {
				if err := x.takeTurn(t.Context(), turns); err != nil {
					t.Fatal(err)
				}
			}
			before := x.held
			switch ok := x.grant(r.Int64N(r.Int64N(6<<20) + 1)); {
			case !ok:
				refused++
			case x.held > before && x.held < x.conn.held:
				shared++
			case x.held > before:
				granted++
			}
			if a.used > most {
				t.Fatalf("seed %d: %d bytes are granted of %d", seed, a.used, most)
			}
			if c := x.conn; x.held > before && x.held < c.held && c.held > most/connectionShare {
				t.Fatalf("seed %d: with another answer, one of a connection gets more, which has %d bytes then; its share is %d", seed, c.held, most/connectionShare)
			}
		}
	}
	if granted == 0 || shared == 0 || refused == 0 {
		t.Errorf("%d answers alone on their connection got more, and %d with others; %d did not; each must be there", granted, shared, refused)
	}
}

// An answer that has more than half of the bytes allowed never fits, as it is in memory twice. It
// is refused as soon as that is known, and not read again.
func TestAnswerThatCanNeverFitIsNotReadAgain(t *testing.T) {
	const most, key = 7 << 20, 1 << 20
	for keys, fits := range map[int]bool{3: true, 4: false} {
		s := &server{answers: &answers{bytesMax: most, stallTimeout: time.Hour}, largeReads: make(chan struct{}, 1)}
		ctx, ticket := s.answers.newTicket(t.Context())
		rounds := 0
		err := s.reading(ctx, false, func(grant kv.Grant) error {
			if rounds++; rounds > 2 {
				return nil
			}
			for range keys {
				if !grant(key) {
					return kv.ErrOverBudget
				}
			}
			return nil
		})
		ticket.release()
		if rounds != 2 { // once until it is found to be large, and once in its turn
			t.Errorf("%d of %d bytes are read %d times, want twice", keys*key, most, rounds)
		}
		switch {
		case fits && err != nil:
			t.Errorf("%d of %d bytes: %v", keys*key, most, err)
		case !fits && (status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "--answer-bytes-max")):
			t.Errorf("%d of %d bytes: %v, want ResourceExhausted and the flag", keys*key, most, err)
		}
	}
}
