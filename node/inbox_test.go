package node

import (
	"reflect"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
)

// woken says whether the loop would wake up now.
func woken(b *inbox) bool {
	select {
	case <-b.bell.(token):
		return true
	default:
		return false
	}
}

// messages queues what a peer sent.
func messages(b *inbox, ms []octopiipb.PeerMessage, bytes int) bool {
	return b.peer(len(ms), bytes, func(in *core.Input) { in.Messages = append(in.Messages, ms...) })
}

// Whatever comes in wakes the loop, and is taken once.
func TestInboxWakesAndEmpties(t *testing.T) {
	for name, put := range map[string]func(b *inbox){
		"ticks and more": func(b *inbox) { b.add(func(in *core.Input) { in.PeersDown = append(in.PeersDown, 7) }) },
		"a request":      func(b *inbox) { b.request(core.Request{Kind: core.Read}) },
		"messages":       func(b *inbox) { messages(b, make([]octopiipb.PeerMessage, 1), 10) },
		"a call":         func(b *inbox) { b.call(func(*loop) {}) },
	} {
		b := newInbox(machine{}.bell())
		if woken(b) {
			t.Errorf("%s: an empty inbox wakes the loop", name)
		}
		put(b)
		put(b) // a second one must not block
		if !woken(b) || woken(b) {
			t.Errorf("%s: want exactly one token", name)
		}
		var in core.Input
		calls := b.take(&in, nil)
		if n := len(in.PeersDown) + len(in.Requests) + len(in.Messages) + len(calls); n != 2 {
			t.Errorf("%s: %d came out, want 2", name, n)
		}
		calls = b.take(&in, calls)
		if n := len(in.PeersDown) + len(in.Requests) + len(in.Messages) + len(calls); n != 0 {
			t.Errorf("%s: %d came out a second time", name, n)
		}
	}
}

// What peers may queue is bounded in number and in bytes; the loop makes room.
func TestInboxIsBounded(t *testing.T) {
	t.Run("items", func(t *testing.T) {
		b := newInbox(machine{}.bell())
		taken := 0
		for peerDown(b, 1, 0) {
			if taken++; taken > 2*inboxItemsMax {
				t.Fatal("there is no bound")
			}
		}
		if taken != inboxItemsMax {
			t.Errorf("%d items found room, want %d", taken, inboxItemsMax)
		}
		var in core.Input
		b.take(&in, nil)
		if len(in.PeersDown) != taken {
			t.Errorf("%d items came out, %d were taken in", len(in.PeersDown), taken)
		}
		if !peerDown(b, inboxItemsMax, 0) || peerDown(b, 1, 0) {
			t.Error("after take there is not room for as many items at once, or for more")
		}
	})
	t.Run("bytes", func(t *testing.T) {
		b := newInbox(machine{}.bell())
		if !peerDown(b, 1, inboxBytesMax-1) || !peerDown(b, 1, inboxBytesMax) {
			t.Error("no room below the bound")
		}
		if peerDown(b, 1, 1) {
			t.Error("room beyond the bound")
		}
		// What is not from peers always finds room.
		b.request(core.Request{})
		b.add(func(in *core.Input) { in.Appended = append(in.Appended, &core.Append{}) })
		var in core.Input
		b.take(&in, nil)
		if len(in.PeersDown) != 2 || len(in.Requests) != 1 || len(in.Appended) != 1 {
			t.Errorf("%d items, %d requests, %d appends; want 2, 1, 1", len(in.PeersDown), len(in.Requests), len(in.Appended))
		}
		if !peerDown(b, 1, 1) {
			t.Error("there is no room after take")
		}
	})
}

// peerDown queues something of a peer.
func peerDown(b *inbox, items, bytes int) bool {
	return b.peer(items, bytes, func(in *core.Input) { in.PeersDown = append(in.PeersDown, 7) })
}

// The room of what was taken is used again, and nothing of it shows up again.
func TestInboxReusesRoom(t *testing.T) {
	b := newInbox(machine{}.bell())
	var in core.Input
	var calls []func(*loop)
	for round := uint64(1); round <= 5; round++ {
		for i := range round {
			messages(b, []octopiipb.PeerMessage{{Message: raftpb.Message{From: round, Index: i}}}, 1)
			b.request(core.Request{To: round})
			b.call(func(*loop) {})
			b.add(func(in *core.Input) {
				in.Ticks++
				in.Appended = append(in.Appended, &core.Append{})
				in.Applied = append(in.Applied, &core.Apply{})
				in.SnapshotsSent = append(in.SnapshotsSent, core.SnapshotSent{To: round})
				in.PeersUp = append(in.PeersUp, core.PeerUp{ID: round})
				in.PeersDown = append(in.PeersDown, round)
				in.PeersGone = append(in.PeersGone, round)
				in.Remote = append(in.Remote, core.RemoteRequests{From: round})
				in.Replies = append(in.Replies, core.RemoteReplies{From: round})
			})
		}
		calls = b.take(&in, calls)
		n := int(round)
		for what, got := range map[string]int{
			"Ticks": in.Ticks, "Messages": len(in.Messages), "Appended": len(in.Appended), "Applied": len(in.Applied),
			"SnapshotsSent": len(in.SnapshotsSent), "PeersUp": len(in.PeersUp), "PeersDown": len(in.PeersDown), "PeersGone": len(in.PeersGone),
			"Requests": len(in.Requests), "Remote": len(in.Remote), "Replies": len(in.Replies), "calls": len(calls),
		} {
			if got != n {
				t.Errorf("round %d: %d of %s, want %d", round, got, what, n)
			}
		}
		for i, m := range in.Messages {
			if m.From != round || m.Index != uint64(i) {
				t.Errorf("round %d: message %d is number %d of round %d", round, i, m.Index, m.From)
			}
		}
	}
}

// reset must know every field of an Input: what it forgets would happen again
// in every turn of the loop.
func TestResetLeavesNothing(t *testing.T) {
	request := []core.Request{{Data: []byte("x")}}
	in := core.Input{
		Ticks: 3, NoSpace: true, Room: core.RoomFor(7), Stuck: true, Messages: make([]octopiipb.PeerMessage, 1), Appended: make([]*core.Append, 1), Applied: make([]*core.Apply, 1),
		SnapshotsSent: make([]core.SnapshotSent, 1), PeersUp: make([]core.PeerUp, 1), PeersDown: []uint64{1},
		PeersGone: []uint64{1}, Campaign: true, Refuse: ErrSuspect, Undelivered: make([]core.Forward, 1), Compacted: core.Place{Index: 5},
		Gone: []core.Waiter{newWaiter()}, Grows: make([]bool, 1),
		Requests: request, Remote: make([]core.RemoteRequests, 1), Replies: make([]core.RemoteReplies, 1),
	}
	fields := inputFields(&in)
	for name, n := range fields {
		if n == 0 {
			t.Errorf("field %s of core.Input is new: fill it here, and empty it in reset", name)
		}
	}
	reset(&in)
	for name, n := range inputFields(&in) {
		if n != 0 {
			t.Errorf("reset leaves %d in %s", n, name)
		}
	}
	if request[0].Data != nil {
		t.Error("reset keeps alive what a request held")
	}
}

// inputFields counts what is in each field of an Input.
func inputFields(in *core.Input) map[string]int {
	counts := map[string]int{}
	v := reflect.ValueOf(in).Elem()
	for i := range v.NumField() {
		n := 0
		if f := v.Field(i); f.Kind() == reflect.Slice {
			n = f.Len()
		} else if !f.IsZero() {
			n = 1
		}
		counts[v.Type().Field(i).Name] = n
	}
	return counts
}

// Many put and one takes: nothing is lost, and a sender's order is kept.
func TestInboxFromManyGoroutines(t *testing.T) {
	const senders, each = 4, 100
	b := newInbox(machine{}.bell())
	var wg sync.WaitGroup
	for s := range uint64(senders) {
		wg.Go(func() {
			for i := range uint64(each) {
				messages(b, []octopiipb.PeerMessage{{Message: raftpb.Message{From: s, Index: i}}}, 1)
			}
		})
	}
	var next [senders]uint64
	var in core.Input
	var calls []func(*loop)
	for total := 0; total < senders*each; total += len(in.Messages) {
		<-b.bell.(token)
		calls = b.take(&in, calls)
		for _, m := range in.Messages {
			if m.Index != next[m.From] {
				t.Fatalf("message %d of sender %d came, want %d", m.Index, m.From, next[m.From])
			}
			next[m.From]++
		}
	}
	wg.Wait()
}
