package node

import (
	"testing"

	octopiipb "github.com/octopii/octopii/proto"
)

// A seal holds for one key, one question and one answer. A stranger that relays a question, or
// kept an older answer, can change none of them.
func TestSeal(t *testing.T) {
	question := octopiipb.VouchRequest{Member: 1, Address: "m1", Nonce: []byte("12345678")}
	answer := octopiipb.VouchReply{Cluster: 7, Removed: true}
	other := func(change func(*octopiipb.VouchRequest, *octopiipb.VouchReply)) (octopiipb.VouchRequest, octopiipb.VouchReply) {
		q, a := question, answer
		change(&q, &a)
		return q, a
	}
	seal := sealOf(102, &question, &answer)
	holds := func(q octopiipb.VouchRequest, a octopiipb.VouchReply, keys ...uint64) bool {
		return sealed(keys, &q, &a, seal)
	}
	if !holds(question, answer, 101, 102) {
		t.Error("the seal of a member that is known does not hold")
	}
	for name, change := range map[string]func(*octopiipb.VouchRequest, *octopiipb.VouchReply){
		"another nonce":   func(q *octopiipb.VouchRequest, _ *octopiipb.VouchReply) { q.Nonce = []byte("12345679") },
		"another member":  func(q *octopiipb.VouchRequest, _ *octopiipb.VouchReply) { q.Member = 3 },
		"another address": func(q *octopiipb.VouchRequest, _ *octopiipb.VouchReply) { q.Address = "m3" },
		"another answer":  func(_ *octopiipb.VouchRequest, a *octopiipb.VouchReply) { a.Removed = false },
		"another cluster": func(_ *octopiipb.VouchRequest, a *octopiipb.VouchReply) { a.Cluster = 8 },
	} {
		if q, a := other(change); holds(q, a, 102) {
			t.Errorf("%s: the seal holds", name)
		}
	}
	if holds(question, answer) || holds(question, answer, 0, 101) {
		t.Error("a seal under another key, or under none, holds")
	}
	seal = nil
	if holds(question, answer, 0, 102) {
		t.Error("an answer without a seal holds")
	}
}
