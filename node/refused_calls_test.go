package node_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/octopii/octopii/node"
)

// A read that this version does not know, or that finds the member full, removed or closed, is
// refused, and never answered with an index.
func TestReadsThatAreRefused(t *testing.T) {
	ms := cluster(t, 2)
	for _, level := range []node.ReadLevel{99, -1} {
		if index, err := ms[0].ReadBarrier(timeout(t), level); err == nil {
			t.Errorf("level %d is answered with index %d", level, index)
		}
	}
	const more = 1 << 40
	ms[0].Pend(more)
	if index, err := ms[0].ReadBarrier(timeout(t), node.Linearizable); !errors.Is(err, node.ErrOverloaded) {
		t.Errorf("a read beside too much: %d, %v, want ErrOverloaded", index, err)
	}
	ms[0].Pend(-more)
	if _, err := ms[0].ReadBarrier(timeout(t), node.Linearizable); err != nil {
		t.Errorf("a read when there is room again: %v", err)
	}
	if _, err := ms[0].Remove(timeout(t), 2); err != nil {
		t.Fatal(err)
	}
	<-ms[1].Done()
	if index, err := ms[1].ReadBarrier(timeout(t), node.Linearizable); err != node.ErrRemoved {
		t.Errorf("a read of a removed member: %d, %v; want ErrRemoved, and nothing of proposals", index, err)
	}
}

// What a new member is called must lead to it: no address, an ID that no member can have, and an
// address where another member answers are refused before anything is changed.
func TestMembersThatCannotBeAdded(t *testing.T) {
	leads := founder(t)
	other := newMember(t, 2).start()
	for name, c := range map[string]struct {
		m    node.Member
		want string
	}{
		"no address":                       {node.Member{ID: 3}, "Address is empty"},
		"an ID that raft keeps for itself": {node.Member{ID: 1<<64 - 1, Address: other.addr}, "no member can have the ID"},
		"the address of another":           {node.Member{ID: 3, Address: other.addr}, "is the address of member 2, not of 3"},
	} {
		for verb, add := range map[string]func(context.Context, node.Member) (node.Membership, error){"AddLearner": leads.AddLearner, "AddVoter": leads.AddVoter} {
			if _, err := add(timeout(t), c.m); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s with %s: %v, want %q", verb, name, err, c.want)
			}
		}
	}
	if _, err := leads.UpdateAddress(timeout(t), 1, leads.addr); err != nil {
		t.Errorf("its own address: %v", err)
	}
	add(t, leads, other)
	// A follower that asks for what is so already is told the membership all the same.
	if ms, err := other.UpdateAddress(timeout(t), 1, leads.addr); err != nil || len(ms.Members) != 2 {
		t.Errorf("the address that member 1 has: %+v, %v", ms, err)
	}
	third := newMember(t, 3).start()
	if _, err := leads.UpdateAddress(timeout(t), 2, third.addr); err == nil || !strings.Contains(err.Error(), "is the address of member 3") {
		t.Errorf("the address of a third one for member 2: %v", err)
	}
	if ms := leads.Status().Membership; len(ms.Members) != 2 {
		t.Errorf("members %+v, want two", ms.Members)
	}
}
