package node

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	octopiipb "github.com/octopii/octopii/proto"
)

// A seal proves that an answer is a member's. Without certificates anybody may listen at the
// address of a member that is down, and state what he likes: also that a majority states it. A
// member's incarnation is known to the members of its cluster, and told to nobody else; so it
// is the key under which an answer is sealed, together with its question, which has a nonce.
// Who relays a question to a member gets the answer to that question, and can change nothing.

// sealable is a message, as it is before it is sealed.
type sealable interface{ Marshal() ([]byte, error) }

// sealOf is the seal of an answer to a question under a key; nil for the key 0, which is nobody's.
func sealOf(key uint64, question, answer sealable) []byte {
	q, err := question.Marshal()
	a, err2 := answer.Marshal()
	if err != nil || err2 != nil || key == 0 {
		return nil
	}
	h := hmac.New(sha256.New, binary.BigEndian.AppendUint64(nil, key))
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(q))))
	h.Write(q)
	h.Write(a)
	return h.Sum(nil)
}

// sealed says whether a seal was made under one of the keys. answer has none any more.
func sealed(keys []uint64, question, answer sealable, seal []byte) bool {
	return slices.ContainsFunc(keys, func(key uint64) bool {
		want := sealOf(key, question, answer)
		return want != nil && hmac.Equal(want, seal)
	})
}

// sealOfRemoval proves to a member that another one which it knows has applied its removal. It
// needs no nonce: the ID of a removed member is never used again.
func sealOfRemoval(key, cluster, removed uint64) []byte {
	return sealOf(key, &octopiipb.Hello{RefusedCode: refusedRemoved}, &octopiipb.HelloMember{Cluster: cluster, From: removed})
}

// isSealedRemoval says whether one of the keys sealed it.
func isSealedRemoval(keys []uint64, cluster, removed uint64, seal []byte) bool {
	return sealed(keys, &octopiipb.Hello{RefusedCode: refusedRemoved}, &octopiipb.HelloMember{Cluster: cluster, From: removed}, seal)
}

// keysOf are the keys of the members that proved themselves once, but for one.
func keysOf(ms *octopiipb.Membership, but uint64) (keys []uint64) {
	if ms == nil {
		return nil
	}
	for i := range ms.Members {
		if m := &ms.Members[i]; m.ID != but && m.Incarnation != 0 {
			keys = append(keys, m.Incarnation)
		}
	}
	return keys
}

// MemberKeys are the keys by which the other members prove to this one who they are, for
// Question.Keys. They are secrets: keep them where the log is. It may be called at any time.
func (n *Node) MemberKeys() []uint64 { return keysOf(n.members.Load(), n.id) }
