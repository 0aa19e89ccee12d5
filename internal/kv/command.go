package kv

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// The first byte of a command says how to read the rest. The numbers are in
// logs on disk: never change one.
const (
	// kindRequest: etcd's InternalRaftRequest follows.
	kindRequest byte = 1
	// kindMember: etcd's Member follows, of which ID and ClientURLs are kept.
	kindMember byte = 2
)

// The first byte of a result. Zero: the response follows, in etcd's encoding.
// Any other value is a Rejection.
const resultOK byte = 0

// message is what gogo/protobuf generates.
type message interface {
	Size() int
	MarshalTo([]byte) (int, error)
}

// RequestCommand returns the command that executes r, in which exactly one of
// Put, DeleteRange, Txn and Compaction is set.
func RequestCommand(r *pb.InternalRaftRequest) ([]byte, error) {
	return encode(kindRequest, r)
}

// MemberCommand returns the command that records m.ClientURLs for m.ID.
func MemberCommand(m *pb.Member) ([]byte, error) {
	return encode(kindMember, m)
}

func encode(first byte, m message) ([]byte, error) {
	b := make([]byte, 1+m.Size())
	b[0] = first
	n, err := m.MarshalTo(b[1:])
	if err != nil {
		return nil, fmt.Errorf("kv: encode command: %w", err)
	}
	return b[:1+n], nil
}

// DecodeResult reads what Apply returned for a command into resp, which is the
// response that belongs to the command; it may be nil for a MemberCommand. The
// error is a Rejection when the command was rejected.
func DecodeResult(result []byte, resp interface{ Unmarshal([]byte) error }) error {
	switch {
	case len(result) == 0:
		return fmt.Errorf("kv: decode result: it is empty")
	case result[0] != resultOK:
		return Rejection(result[0])
	case resp == nil:
		return nil
	}
	if err := resp.Unmarshal(result[1:]); err != nil {
		return fmt.Errorf("kv: decode result: %w", err)
	}
	return nil
}

// Rejection says why a command or a read was refused. It changed nothing. The
// numbers are the same on every member and in every version.
type Rejection byte

// The rejections.
const (
	Malformed         Rejection = 1
	EmptyKey          Rejection = 2
	ValueProvided     Rejection = 3
	LeaseProvided     Rejection = 4
	TooManyOps        Rejection = 5
	DuplicateKey      Rejection = 6
	InvalidSortOption Rejection = 7
	KeyNotFound       Rejection = 8
	LeaseNotFound     Rejection = 9
	Compacted         Rejection = 10
	FutureRev         Rejection = 11
	Unsupported       Rejection = 12
)

var rejectionText = map[Rejection]string{
	Malformed:         "the command cannot be read",
	EmptyKey:          "a key is empty",
	ValueProvided:     "a value is given although it is to be ignored",
	LeaseProvided:     "a lease is given although it is to be ignored",
	TooManyOps:        "too many operations in one transaction",
	DuplicateKey:      "a transaction writes one key twice",
	InvalidSortOption: "unknown sort order or target",
	KeyNotFound:       "the key does not exist",
	LeaseNotFound:     "the lease does not exist",
	Compacted:         "the revision has been compacted",
	FutureRev:         "the revision is in the future",
	Unsupported:       "this version does not know such a request",
}

func (r Rejection) Error() string {
	if text, ok := rejectionText[r]; ok {
		return "kv: rejected: " + text
	}
	return fmt.Sprintf("kv: rejected for reason %d, which this version does not know", byte(r))
}
