package etcdapi

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec for messages that are not gogo's
	"google.golang.org/grpc/mem"

	"github.com/octopii/octopii/internal/kv"
)

const (
	// smallRequestBytesMax bounds a request that carries no keys and values.
	smallRequestBytesMax = 64 << 10
	// answerPartBytes is how much of an answer is freed, and seen to be written, at
	// once.
	answerPartBytes = 256 << 10
)

// counted is an answer whose bytes are counted.
type counted struct {
	answer any
	ticket *ticket
}

// gogoMessage is what gogo/protobuf generates for etcd's messages.
type gogoMessage interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
	Reset()
}

// codec is gRPC's codec for protobuf with two additions: a request that would take
// many times its size in memory is refused before it is decoded, and the bytes of
// large answers are counted until they are written.
type codec struct {
	encoding.CodecV2
}

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	answer, ok := v.(*counted)
	if !ok {
		if m, ok := v.(gogoMessage); ok {
			b, err := marshal(m)
			return mem.BufferSlice{mem.SliceBuffer(b)}, err
		}
		return c.CodecV2.Marshal(v)
	}
	b, err := marshal(answer.answer.(gogoMessage))
	if err != nil || len(b) <= answerFreeBytes {
		answer.ticket.release()
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	return parts(b, answer.ticket), nil
}

func marshal(m gogoMessage) ([]byte, error) {
	b := make([]byte, m.Size())
	n, err := m.MarshalToSizedBuffer(b)
	return b[len(b)-n:], err
}

// parts cuts an answer, so that its ticket sees how it is written. The last part is
// the longest: one that is very short would not be seen.
func parts(b []byte, t *ticket) (all mem.BufferSlice) {
	t.sending(int64(len(b)))
	for len(b) > 0 {
		n := answerPartBytes
		if len(b) < 2*n {
			n = len(b)
		}
		part := b[:n:n]
		all = append(all, mem.NewBuffer(&part, t))
		b = b[n:]
	}
	return all
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(gogoMessage)
	if !ok {
		if data.Len() > smallRequestBytesMax {
			return tooLong(v, data.Len())
		}
		return c.CodecV2.Unmarshal(data, v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	b := buffer.ReadOnlyData()
	m.Reset()
	switch m := m.(type) {
	case *pb.TxnRequest:
		if err := kv.ScanTxn(b); err == kv.TooManyOps {
			// An error of the codec would reach the client as one of the transport.
			// This is refused by the first look at it, with etcd's own words.
			m.Compare = make([]*pb.Compare, kv.TxnOpsMax+1)
			return nil
		} else if err != nil {
			return err
		}
	case *pb.RangeRequest, *pb.PutRequest, *pb.DeleteRangeRequest:
	default:
		if len(b) > smallRequestBytesMax {
			return tooLong(v, len(b))
		}
	}
	return m.Unmarshal(b)
}

func tooLong(v any, bytes int) error {
	return fmt.Errorf("octopii: a %T of %d bytes; %d are allowed", v, bytes, smallRequestBytesMax)
}
