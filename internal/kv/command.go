package kv

import (
	"encoding/binary"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// The first byte of a command says how to read the rest. The numbers are in
// logs on disk: never change one.
const (
	// kindRequest: the header of a request follows, and etcd's InternalRaftRequest.
	kindRequest byte = 1
	// kindMember: etcd's Member follows, of which ID and ClientURLs are kept.
	kindMember byte = 2
	// kindCompare: nothing follows. Members note the content of their databases.
	kindCompare byte = 3
	// kindContent: a member's ID, an index, and what that member noted there: the number
	// of revisions and the sum of their checksums. Eight bytes each, big endian.
	kindContent byte = 4
)

// requestHeaderBytes is the length of what is in front of an InternalRaftRequest: the
// kind, the origin (8 bytes) and readBytesMax (4 bytes), both big endian.
const requestHeaderBytes = 1 + 8 + 4

// ReadBytesMax is how many bytes of keys and values one command may read, by its
// compares, its ranges, and for the previous values that it returns. It also bounds
// its result. It is the same on all members, as it decides what Apply does.
const ReadBytesMax = 16 << 20

// The first byte of a result. Any other value than these is a Rejection.
const (
	// resultOK: the response follows, in etcd's encoding.
	resultOK byte = 0
	// resultElsewhere: another member, or another run of this one, proposed the
	// command. Nobody waits for its response here, and so it was not made.
	resultElsewhere byte = 255
)

// message is what gogo/protobuf generates.
type message interface {
	Size() int
	MarshalTo([]byte) (int, error)
}

// command is a command as it is executed. One of request, member, compare and content is
// set.
type command struct {
	// origin is the store whose server proposed it; 0: any.
	origin uint64
	// readBytesMax bounds what it reads. It is part of the command, so that its
	// server can know how much memory the answer needs.
	readBytesMax int64
	request      *pb.InternalRaftRequest
	member       *pb.Member
	// compare: members note their contents. content is a ContentCommand.
	compare bool
	content []byte
}

// RequestCommand returns the command that executes r, in which exactly one of
// Put, DeleteRange, Txn and Compaction is set. It is rejected with TooMuchRead if
// it would read more than readBytesMax, and in any case if that were more than
// ReadBytesMax. Only this store has its response.
func (s *Store) RequestCommand(r *pb.InternalRaftRequest, readBytesMax int64) ([]byte, error) {
	return requestCommand(r, s.origin, readBytesMax)
}

func requestCommand(r *pb.InternalRaftRequest, origin uint64, readBytesMax int64) ([]byte, error) {
	header := binary.BigEndian.AppendUint64([]byte{kindRequest}, origin)
	header = binary.BigEndian.AppendUint32(header, uint32(min(readBytesMax, ReadBytesMax)))
	return encode(header, r)
}

// MemberCommand returns the command that records m.ClientURLs for m.ID.
func MemberCommand(m *pb.Member) ([]byte, error) {
	return encode([]byte{kindMember}, m)
}

func encode(first []byte, m message) ([]byte, error) {
	b := make([]byte, len(first)+m.Size())
	copy(b, first)
	n, err := m.MarshalTo(b[len(first):])
	if err != nil {
		return nil, fmt.Errorf("kv: encode command: %w", err)
	}
	return b[:len(first)+n], nil
}

// decodeCommand reads and checks a command by itself. It depends on nothing but the
// bytes, and so all members agree on the Rejection, which is the only kind of error;
// that includes bytes on which the code of etcd panics.
func decodeCommand(b []byte) (c command, err error) {
	defer func() {
		if recover() != nil {
			err = Malformed
		}
	}()
	if len(b) == 0 {
		return command{}, Malformed
	}
	switch b[0] {
	case kindRequest:
		return decodeRequest(b)
	case kindCompare:
		return command{compare: true}, nil
	case kindContent:
		return command{content: b}, nil
	case kindMember:
		c.member = new(pb.Member)
		if c.member.Unmarshal(b[1:]) != nil {
			return command{}, Malformed
		}
		return c, nil
	}
	return command{}, Unsupported
}

func decodeRequest(b []byte) (command, error) {
	if len(b) < requestHeaderBytes {
		return command{}, Malformed
	}
	c := command{
		origin:       binary.BigEndian.Uint64(b[1:]),
		readBytesMax: min(int64(binary.BigEndian.Uint32(b[9:])), ReadBytesMax),
		request:      new(pb.InternalRaftRequest),
	}
	body := b[requestHeaderBytes:]
	if err := scanRequest(body); err != nil {
		return command{}, err
	}
	if c.request.Unmarshal(body) != nil {
		return command{}, Malformed
	}
	return c, checkRequest(c.request)
}

// checkRequest says what is wrong with r, whatever the state is.
func checkRequest(r *pb.InternalRaftRequest) error {
	switch {
	case r.Put != nil:
		return CheckPut(r.Put)
	case r.DeleteRange != nil:
		return CheckDeleteRange(r.DeleteRange)
	case r.Txn != nil:
		return CheckTxn(r.Txn)
	case r.Compaction != nil:
		return nil
	}
	return Unsupported
}

// DecodeResult reads what Apply returned for a command into resp, which is the
// response that belongs to the command; it may be nil for a MemberCommand. The
// error is a Rejection when the command was rejected.
func DecodeResult(result []byte, resp interface{ Unmarshal([]byte) error }) error {
	switch {
	case len(result) == 0:
		return fmt.Errorf("kv: decode result: it is empty")
	case result[0] == resultElsewhere:
		return fmt.Errorf("kv: decode result: the command is not one of this store")
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
	TooMuchRead       Rejection = 13
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
	TooMuchRead:       "it reads more than a transaction may",
	Unsupported:       "this version does not know such a request",
}

func (r Rejection) Error() string {
	if text, ok := rejectionText[r]; ok {
		return "kv: rejected: " + text
	}
	return fmt.Sprintf("kv: rejected for reason %d, which this version does not know", byte(r))
}
