package kv

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// memberPrefix begins the keys in the meta bucket under which the members'
// records lie; the member's ID in hexadecimal follows.
var memberPrefix = []byte("octopii.member/")

// memberURLsMax bounds one record.
const memberURLsMax = 64

func memberKey(id uint64) []byte { return fmt.Appendf(nil, "%s%016x", memberPrefix, id) }

// putMember records the client URLs of a member.
func (db *database) putMember(m *pb.Member) error {
	if m.ID == 0 || len(m.ClientURLs) > memberURLsMax {
		return Malformed
	}
	record := pb.Member{ID: m.ID, ClientURLs: m.ClientURLs}
	value, err := record.Marshal()
	if err != nil {
		return fmt.Errorf("encode member: %w", err)
	}
	tx := db.be.BatchTx()
	tx.LockInsideApply()
	defer tx.Unlock()
	tx.UnsafePut(schema.Meta, memberKey(m.ID), value)
	return nil
}

// ClientURLs returns what members published with MemberCommand, ordered by ID,
// those that were removed from the cluster included. Only ID and ClientURLs are
// set.
func (s *Store) ClientURLs() ([]*pb.Member, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return nil, ErrClosed
	}
	tx := s.db.be.ConcurrentReadTx()
	tx.RLock()
	defer tx.RUnlock()
	var members []*pb.Member
	err := tx.UnsafeForEach(schema.Meta, func(key, value []byte) error {
		if !bytes.HasPrefix(key, memberPrefix) {
			return nil
		}
		m := new(pb.Member)
		members = append(members, m)
		return m.Unmarshal(value)
	})
	if err != nil {
		return nil, fmt.Errorf("kv: read member records: %w", err)
	}
	// What is not yet committed comes last.
	slices.SortFunc(members, func(a, b *pb.Member) int { return cmp.Compare(a.ID, b.ID) })
	return members, nil
}
