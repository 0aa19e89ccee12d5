package node

import (
	"testing"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
)

// A removed member answers for what is in force by what it has applied, and for nothing else.
func TestAfterRemoval(t *testing.T) {
	members := []octopiipb.Member{{ID: 1, Kind: octopiipb.Voter}, {ID: 2, Kind: octopiipb.Voter}, {ID: 3, Address: "h:3", Kind: octopiipb.Learner, Promote: true, Replaces: 1}}
	change := func(op core.ChangeOp, id uint64) octopiipb.MemberChange {
		return octopiipb.MemberChange{Op: op, Member: octopiipb.Member{ID: id}}
	}
	wish := &octopiipb.Membership{Cluster: 1, Index: 5, Members: members}
	joint := &octopiipb.Membership{Cluster: 1, Index: 6, Members: members, UnderWay: []octopiipb.MemberChange{change(core.Promote, 3), change(core.Remove, 1)}}
	replace := Change{Verb: VerbReplace, Member: Member{ID: 3}, Old: 1}
	for name, c := range map[string]struct {
		ms     *octopiipb.Membership
		change Change
		want   bool
	}{
		"removed":                      {wish, Change{Verb: VerbRemove, Member: Member{ID: 1}}, true},
		"another one was to go":        {wish, Change{Verb: VerbRemove, Member: Member{ID: 2}}, false},
		"replaced":                     {joint, replace, true},
		"replaced, by the address":     {joint, Change{Verb: VerbReplace, Member: Member{Address: "h:3"}, Old: 1}, true},
		"removed before the promotion": {wish, replace, false},
		"another one was replaced":     {joint, Change{Verb: VerbReplace, Member: Member{ID: 3}, Old: 2}, false},
		"a promotion":                  {joint, Change{Verb: VerbPromote, Member: Member{ID: 3}}, false},
		"it knows of no members":       {nil, replace, false},
	} {
		n := verbs{bareGroup()}
		n.members.Store(c.ms)
		after, ok := n.afterRemoval(c.change)
		_, there := after.Member(1)
		if ok != c.want || ok && (there || after.Joint) {
			t.Errorf("%s: %v, %v; want %v, and a membership without it", name, after, ok, c.want)
		}
	}
}
