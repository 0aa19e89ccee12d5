package kv

import (
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// messagesMax is how many messages may be inside a transaction, at all depths.
	// An empty one takes two bytes in a request and a hundred in memory.
	messagesMax = 1 << 14
	// requestFieldsMax is how many fields an InternalRaftRequest may have. One that
	// we wrote has one.
	requestFieldsMax = 16
)

// The numbers of fields in etcd's messages.
const (
	fieldPut, fieldDeleteRange, fieldTxn, fieldCompaction = 4, 5, 6, 7 // InternalRaftRequest
	fieldFailure                                          = 3          // TxnRequest; before it: compare, success
	fieldRequestTxn                                       = 4          // RequestOp; before it: range, put, delete
)

// ScanTxn reads an encoded TxnRequest without making anything of it, and says
// whether it may be decoded: nil, TooManyOps or Malformed. A decoder takes a stack
// frame for each level of a message, and a hundred bytes for each empty message in it.
func ScanTxn(b []byte) error {
	s := &scanner{messages: messagesMax}
	return s.txn(b, TxnOpsMax)
}

// scanRequest does the same with an InternalRaftRequest.
func scanRequest(b []byte) error {
	s := &scanner{messages: messagesMax}
	fields := 0
	return eachField(b, func(field protowire.Number, message []byte) error {
		fields++
		switch {
		case fields > requestFieldsMax:
			return Malformed
		case field == fieldTxn:
			return s.txn(message, TxnOpsMax)
		case field == fieldPut, field == fieldDeleteRange, field == fieldCompaction:
			return nil
		}
		return Unsupported
	})
}

// scanner counts down the messages that a transaction may still have.
type scanner struct {
	messages int
}

// txn scans a transaction that may have so many levels, as each has an operation.
func (s *scanner) txn(b []byte, levels int) error {
	if levels < 0 {
		return TooManyOps
	}
	return eachField(b, func(field protowire.Number, message []byte) error {
		if err := s.count(); err != nil || field == 1 || field > fieldFailure {
			return err
		}
		return s.op(message, levels)
	})
}

func (s *scanner) op(b []byte, levels int) error {
	return eachField(b, func(field protowire.Number, message []byte) error {
		if err := s.count(); err != nil || field != fieldRequestTxn {
			return err
		}
		return s.txn(message, levels-1)
	})
}

func (s *scanner) count() error {
	s.messages--
	if s.messages < 0 {
		return TooManyOps
	}
	return nil
}

// eachField calls f for every field of a message that has nothing but messages.
// Groups, which a decoder would pass over, are refused.
func eachField(b []byte, f func(field protowire.Number, message []byte) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.BytesType {
			return Malformed
		}
		message, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return Malformed
		}
		if err := f(field, message); err != nil {
			return err
		}
		b = b[n+m:]
	}
	return nil
}
