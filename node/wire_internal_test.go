package node

import (
	"fmt"
	"testing"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// TestWireNumbersArePinned: members of other versions know kinds and codes by these numbers. A
// number never gets another meaning.
func TestWireNumbersArePinned(t *testing.T) {
	kinds := map[transport.Kind]transport.Kind{
		1: kindRaft, 2: kindRequests, 3: kindReplies, 4: kindJoin, 5: kindKnock, 6: kindVouch, 7: kindFound, 32: kindCompare, 33: kindTestify, 34: kindOwnLog,
	}
	for want, kind := range kinds {
		if kind != want {
			t.Errorf("a kind of message has the number %d, want %d", kind, want)
		}
	}
	for want, code := range []uint32{1: refusedRemoved, 2: refusedDisk, 3: refusedFormat} {
		if code != uint32(want) {
			t.Errorf("a code of a refusal is %d, want %d", code, want)
		}
	}
	for want, code := range []uint32{joinAccepted, joinRetry, joinReused, joinForgot, joinFormat} {
		if code != uint32(want) {
			t.Errorf("a code of a JoinReply is %d, want %d", code, want)
		}
	}
	for want, code := range []uint32{vouched, vouchNone, vouchNoQuorum} {
		if code != uint32(want) {
			t.Errorf("a code of a VouchReply is %d, want %d", code, want)
		}
	}
}

// TestDigestsGolden pins what members compute for each other: seals, marks and public IDs.
func TestDigestsGolden(t *testing.T) {
	compare := &octopiipb.CompareRequest{Index: 9, Nonce: []byte("12345678")}
	vouch := &octopiipb.VouchRequest{Member: 1, Address: "h:1", Nonce: []byte("12345678")}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"the seal of a CompareReply": {sealOf(101, compare, &octopiipb.CompareReply{Cluster: 7, Index: 9}), "5d9676f80d79be3b94e56637fe5f4d1cffcf0bedb45c192e19d2b614371c59ca"},
		"the seal of a VouchReply":   {sealOf(101, vouch, &octopiipb.VouchReply{Cluster: 7, Removed: true}), "f7fd97095227edaa68cb2d1c7a9bf689eba239224061a9582eb0e211c780670a"},
		"the seal of a removal":      {sealOfRemoval(0x1f19847bcb0f474d, 0x7122538a1bc40ff, 0x53cf98028644dce5), "90d67e01d3b48ecccbdefa9fb649da9efeae7986ec5c6ad9b102afc3e0cbbdcc"},
		"a mark":                     {markOf([]byte("12345678"), 7), "b06051467d61e67d2f5bd6e1a7fc0810"},
	} {
		if got := fmt.Sprintf("%x", c.got); got != c.want {
			t.Errorf("%s is %s, want %s", name, got, c.want)
		}
	}
	if got, want := PublicClusterID(0x7122538a1bc40ff), uint64(0xce7c2f0cb9c5008a); got != want || PublicClusterID(0) != 0 {
		t.Errorf("the public ID is %x, want %x; of no cluster %x", got, want, PublicClusterID(0))
	}
}
