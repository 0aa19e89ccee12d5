package tcp

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/transporttest"
)

// TestMovedPeers: two peers that swapped their addresses are looked for in the wrong
// places. Each calls a third one, which finds them where they said that they are, and
// its Handler is told where that was.
func TestMovedPeers(t *testing.T) {
	a, h := start(t, 1, Config{})
	b, hb := start(t, 2, Config{})
	c, hc := start(t, 3, Config{})
	a.SetPeer(2, c.Address())
	a.SetPeer(3, b.Address())
	hb.SetAddress(b.Address())
	hc.SetAddress(c.Address())
	send := func() bool { return a.Send(2, 1, number(1)) && a.Send(3, 1, number(1)) }
	for _, moved := range []transport.Transport{b, c} {
		moved.SetPeer(1, a.Address())
		moved.Send(1, 1, number(1))
	}
	transporttest.Until(t, "both get what is for them", func() bool {
		return send() && hb.Received(1) > 0 && hc.Received(1) > 0
	})
	for id, at := range map[uint64]string{2: b.Address(), 3: c.Address()} {
		if !slices.ContainsFunc(h.Accepted(), func(peer transport.Hello) bool { return peer.Node == id && peer.At == at }) {
			t.Errorf("the Handler was not told that %d was reached at %s", id, at)
		}
	}
	// What was found is not lost when the record is corrected.
	down := h.Downs(2)
	a.SetPeer(2, b.Address())
	before := hb.Received(1)
	transporttest.Until(t, "it goes on", func() bool { return send() && hb.Received(1) > before })
	if h.Downs(2) != down {
		t.Error("the connection was made anew, to the same address")
	}
}

// TestSought: whoever comes for a member that is not here tells whom it wants, and is
// refused.
func TestSought(t *testing.T) {
	free, _ := start(t, 9, Config{})
	address := free.Address()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	a, h := start(t, 1, Config{})
	h.SetAddress(a.Address())
	a.SetPeer(2, address)
	a.Send(2, 1, number(1))
	var who transport.Hello
	transporttest.Until(t, "somebody came", func() bool {
		a.Send(2, 1, number(1))
		var err error
		if who, err = Sought(Config{Listen: address}, backoffMax); err != nil {
			t.Fatal(err)
		}
		return who.Node != 0
	})
	if who.Node != 1 || who.To != 2 || who.Cluster == 0 || who.Host.Address != a.Address() {
		t.Errorf("who came said %+v", who)
	}
	if who, err := Sought(Config{Listen: address}, 1); err != nil || who.Node != 0 {
		t.Errorf("nobody came within no time, and it says %+v, %v", who, err)
	}
}

// refuser is a Handler that refuses whoever wants another member.
type refuser struct {
	*transporttest.Handler
	err error
}

func (s refuser) Sought(transport.Hello) error { return s.err }

// TestSoughtIsRefused: what the Handler says to one that wants another member reaches it, with
// code and seal; where it says nothing, it is told who is here.
func TestSoughtIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want transport.Refusal
	}{
		"with its words": {transport.RefuseSealed(7, []byte("proof"), errors.New("gone")), transport.Refusal{Code: 7, Reason: "gone", Seal: []byte("proof")}},
		"without a word": {nil, transport.Refusal{Reason: "this is member 3, not 2: correct its address"}},
	} {
		t.Run(name, func(t *testing.T) {
			a, h := start(t, 1, Config{})
			b := startWith(t, refuser{transporttest.NewHandler(3), c.err}, Config{})
			a.SetPeer(2, b.Address())
			a.Send(2, 1, number(1))
			transporttest.Until(t, "it is refused", func() bool { return len(h.Refusals()) > 0 })
			if got := h.Refusals()[0]; !reflect.DeepEqual(got, c.want) {
				t.Errorf("refused with %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestCopiedMember: a copy of a member runs elsewhere, under the same ID. Whichever comes first,
// the one at the recorded address is connected in the end, and the other one is told.
func TestCopiedMember(t *testing.T) {
	for _, first := range []string{"original", "copy"} {
		t.Run(first+" first", func(t *testing.T) {
			a, _ := start(t, 1, Config{})
			original, ho := start(t, 2, Config{})
			other, hc := start(t, 2, Config{})
			ho.SetAddress(original.Address())
			hc.SetAddress(other.Address())
			calls := map[string]*Transport{"original": original, "copy": other}
			come := func(name string) {
				calls[name].SetPeer(1, a.Address())
				calls[name].Send(1, 1, number(1))
			}
			a.SetPeer(2, original.Address())
			come(first)
			transporttest.Until(t, "the first is there", func() bool { return a.registry.flowing(2) })
			for name := range calls {
				if name != first {
					come(name)
				}
			}
			transporttest.Until(t, "the copy is told", func() bool {
				other.Send(1, 1, number(2))
				return len(hc.Refusals()) > 0
			})
			transporttest.Until(t, "the original gets what is for it", func() bool {
				a.Send(2, 1, number(3))
				return ho.Received(1) > 0
			})
			a.registry.mu.RLock()
			said := a.registry.flows[flowKey{2, 0}].c.entry.host.Address
			a.registry.mu.RUnlock()
			if said != original.Address() {
				t.Errorf("member 2 is connected from %s, and the original is at %s", said, original.Address())
			}
		})
	}
}

// TestCopyAtTheSameAddress: a copy of a member runs elsewhere, and says that it is where the
// member is, as its settings were copied as well. Whichever comes first, the one that answers
// there is connected in the end, and the other one is told.
func TestCopyAtTheSameAddress(t *testing.T) {
	for _, first := range []string{"original", "copy"} {
		t.Run(first+" first", func(t *testing.T) {
			a, _ := start(t, 1, Config{})
			original, ho := start(t, 2, Config{})
			other, hc := start(t, 2, Config{})
			ho.SetAddress(original.Address())
			hc.SetAddress(original.Address())
			calls := map[string]*Transport{"original": original, "copy": other}
			a.SetPeer(2, original.Address())
			a.Send(2, 1, number(0))
			transporttest.Until(t, "a is connected to the original", func() bool { return ho.Received(1) > 0 })
			calls[first].SetPeer(1, a.Address())
			transporttest.Until(t, "the first is there", func() bool { calls[first].Send(1, 1, number(1)); return a.registry.flowing(2) })
			original.SetPeer(1, a.Address())
			other.SetPeer(1, a.Address())
			transporttest.Until(t, "the copy is told", func() bool {
				original.Send(1, 1, number(1))
				other.Send(1, 1, number(2))
				return slices.ContainsFunc(hc.Refusals(), func(r transport.Refusal) bool { return strings.Contains(r.Reason, "runs twice") })
			})
			a.registry.mu.RLock()
			connected := a.registry.flows[flowKey{2, 0}]
			a.registry.mu.RUnlock()
			if connected == nil || connected.c.entry.host.ID != original.host {
				t.Errorf("connected is %+v, want the original", connected)
			}
		})
	}
}

// TestRestartedMemberTakesOver: a process that comes after another one at its address is not
// taken for a copy, however often that happens.
func TestRestartedMemberTakesOver(t *testing.T) {
	a, _ := start(t, 1, Config{})
	for range 4 {
		b, h := start(t, 2, Config{})
		h.SetAddress("m2")
		a.SetPeer(2, b.Address())
		b.SetPeer(1, a.Address())
		transporttest.Until(t, "it is connected", func() bool {
			b.Send(1, 1, number(1))
			a.registry.mu.RLock()
			defer a.registry.mu.RUnlock()
			f := a.registry.flows[flowKey{2, 0}]
			return f != nil && f.c.entry.host.ID == b.host
		})
		if told := h.Refusals(); len(told) > 0 {
			t.Errorf("it was refused: %+v", told)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCopiedMemberIsLeft: while a member is down a copy of it is found elsewhere, and connected
// to. When the member is back, and says that it is where it is recorded, it is looked for there.
func TestCopiedMemberIsLeft(t *testing.T) {
	a, _ := start(t, 1, Config{})
	original, _ := start(t, 2, Config{})
	at := original.Address()
	if err := original.Close(); err != nil {
		t.Fatal(err)
	}
	a.SetPeer(2, at)
	other, hc := start(t, 2, Config{})
	hc.SetAddress(other.Address())
	other.SetPeer(1, a.Address())
	transporttest.Until(t, "the copy is taken for it", func() bool {
		other.Send(1, 1, number(1))
		a.Send(2, 1, number(1))
		return hc.Received(1) > 0
	})
	hb := transporttest.NewHandler(2)
	hb.SetAddress(at)
	back, err := New(Config{Listen: at})
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Start(hb); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = back.Close() })
	back.SetPeer(1, a.Address())
	transporttest.Until(t, "it gets what is for it", func() bool {
		back.Send(1, 1, number(2))
		a.Send(2, 1, number(2))
		return hb.Received(1) > 0
	})
}

// TestDoubtedMemberGivesWay: a member is connected from where it is recorded, doubts its own
// log, and a copy of its disk that has more comes from elsewhere. That one is connected then,
// in both directions, and stays.
func TestDoubtedMemberGivesWay(t *testing.T) {
	a, _ := start(t, 1, Config{})
	older, ho := start(t, 2, Config{})
	newer, hn := start(t, 2, Config{})
	ho.SetAddress(older.Address())
	hn.SetAddress(newer.Address())
	a.SetPeer(2, older.Address())
	for _, m := range []*Transport{older, newer} {
		m.SetPeer(1, a.Address())
	}
	transporttest.Until(t, "the older one is connected", func() bool {
		older.Send(1, 1, number(1))
		a.Send(2, 1, number(1))
		return a.registry.flowing(2) && ho.Received(1) > 0
	})
	transporttest.Until(t, "the newer one is refused", func() bool {
		newer.Send(1, 1, number(2))
		return len(hn.Refusals()) > 0
	})
	a.Doubt(2)
	both := func() {
		newer.Send(1, 1, number(2))
		older.Send(1, 1, number(1))
		a.Send(2, 1, number(3))
	}
	transporttest.Until(t, "the newer one gets what is for it", func() bool { both(); return hn.Received(1) > 0 })
	refusals := len(ho.Refusals())
	transporttest.Until(t, "the older one is refused", func() bool { both(); return len(ho.Refusals()) > refusals })
	before, got := ho.Received(1), hn.Received(1)
	transporttest.Until(t, "the newer one stays", func() bool { both(); return hn.Received(1) > got+20 })
	if ho.Received(1) != before {
		t.Errorf("the older one got %d messages meanwhile", ho.Received(1)-before)
	}
}
