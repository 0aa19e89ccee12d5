package node

import (
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// takeOrWait is take by somebody who waits for the bell, as a host does.
func takeOrWait[T any](m *mailbox[T], spare []T) (items []T, open bool) {
	for {
		if items, open = m.take(spare); len(items) > 0 || !open {
			return items, open
		}
		spare = items
		<-m.bell.(token)
	}
}

// Every sender's items come out in the order in which it put them, once, and
// all that were put before close come out after it.
func TestMailboxKeepsOrder(t *testing.T) {
	const senders, each = 4, 200
	type item struct{ sender, n int }
	m := newMailbox[item](machine{}.bell())
	var putting sync.WaitGroup
	for s := range senders {
		putting.Go(func() {
			for n := range each {
				m.put(item{s, n})
			}
		})
	}
	var closing sync.WaitGroup
	closing.Go(func() {
		putting.Wait()
		m.close()
	})
	var next [senders]int
	var items []item
	for ok := true; ok; {
		if items, ok = takeOrWait(m, items); ok && len(items) == 0 {
			t.Fatal("take returned nothing, and the mailbox is open")
		}
		for _, it := range items {
			if it.n != next[it.sender] {
				t.Fatalf("item %d of sender %d came, want %d", it.n, it.sender, next[it.sender])
			}
			next[it.sender]++
		}
	}
	closing.Wait()
	if next != [senders]int{each, each, each, each} {
		t.Errorf("of each sender came %v, want %d", next, each)
	}
}

// The bell rings for an item, and for the end.
func TestMailboxWakes(t *testing.T) {
	m := newMailbox[int](machine{}.bell())
	got := make(chan []int)
	go func() {
		defer close(got)
		var spare []int
		for {
			items, ok := takeOrWait(m, spare)
			if !ok {
				return
			}
			got <- slices.Clone(items)
			spare = items
		}
	}()
	for i := range 100 {
		m.put(i) // nothing else is there: exactly this must come
		if items := <-got; !slices.Equal(items, []int{i}) {
			t.Fatalf("took %v, want [%d]", items, i)
		}
	}
	m.close()
	if items, open := <-got; open {
		t.Errorf("took %v from a mailbox that is closed and empty", items)
	}
}

func TestMailboxAfterClose(t *testing.T) {
	m := newMailbox[int](machine{}.bell())
	m.put(1)
	m.close()
	m.close() // a second time is nothing new
	m.put(2)
	if items, ok := takeOrWait(m, nil); !ok || !slices.Equal(items, []int{1}) {
		t.Errorf("took %v, %v; want what was put before close", items, ok)
	}
	for range 2 {
		if items, ok := m.take(nil); ok || len(items) > 0 {
			t.Errorf("took %v, %v after the end; want nothing", items, ok)
		}
	}
}

// Somebody may put while somebody else closes: the item comes out or is dropped.
func TestMailboxPutBesideClose(t *testing.T) {
	for range 200 {
		m := newMailbox[int](machine{}.bell())
		var wg sync.WaitGroup
		wg.Go(func() { m.put(1) })
		wg.Go(m.close)
		items, ok := takeOrWait(m, nil)
		if ok && !slices.Equal(items, []int{1}) {
			t.Fatalf("took %v, want [1] or nothing", items)
		}
		wg.Wait()
		if ok {
			if _, more := takeOrWait(m, nil); more {
				t.Fatal("something came out after the end")
			}
		}
	}
}

// One goroutine's view, against a plain list; the room that take gets back is
// cleared, so that it holds nothing alive, and used for what comes next.
func TestMailboxModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMailbox[*int](machine{}.bell())
		var model, spare []*int
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			if len(model) == 0 || rapid.Bool().Draw(t, "put") {
				p := new(int)
				m.put(p)
				model = append(model, p)
				continue
			}
			old := spare
			items, ok := takeOrWait(m, spare)
			if !ok || !slices.Equal(items, model) {
				t.Fatalf("took %d items, %v; want the %d that were put, in order", len(items), ok, len(model))
			}
			if slices.ContainsFunc(old, func(p *int) bool { return p != nil }) {
				t.Fatal("the room that was given back still holds items")
			}
			spare, model = items, nil
		}
	})
}
