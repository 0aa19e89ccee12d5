package kv

import (
	"bytes"
	"cmp"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// plan is what a transaction will do, found out from the state before it: nothing is
// written until it is certain that nothing can fail. etcd executes transactions, too,
// but panics where a write fails half-way, and reads without a bound.
type plan struct {
	view   mvcc.ReadView
	lessor lease.Lessor
	// m bounds what all reads of the transaction bring into memory.
	m *meter
	// measured: reads are executed to learn what they cost. Otherwise they are
	// executed once, later, and charged then.
	measured bool

	// path says of the transaction, and of each one inside it that is executed, in
	// this order, whether its compares hold.
	path []bool
	// puts are the keys that were planned to be put, with their sizes: ranges that
	// follow read them.
	puts []plannedPut
}

type plannedPut struct {
	key   []byte
	bytes int64
}

// txn plans r, which passed CheckTxn. The error is a Rejection, or that of the meter.
func (p *plan) txn(r *pb.TxnRequest) error {
	holds, err := p.compares(r.Compare)
	if err != nil {
		return err
	}
	p.path = append(p.path, holds)
	for _, op := range branch(r, holds) {
		if err := p.op(op); err != nil {
			return err
		}
	}
	return nil
}

func branch(r *pb.TxnRequest, holds bool) []*pb.RequestOp {
	if holds {
		return r.Success
	}
	return r.Failure
}

func (p *plan) op(op *pb.RequestOp) error {
	switch o := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return p.read(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return p.put(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return p.remove(o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return p.txn(o.RequestTxn)
	}
	return KeyNotFound // no check lets it pass
}

func (p *plan) read(r *pb.RangeRequest) error {
	switch {
	case r.Revision > p.view.Rev():
		return FutureRev
	case r.Revision != 0 && r.Revision < p.view.FirstRev():
		return Compacted
	}
	return p.measure(r)
}

// measure charges what r will read.
func (p *plan) measure(r *pb.RangeRequest) error {
	if !p.measured {
		return nil
	}
	found, err := fetch(p.view, r, p.m)
	if err != nil {
		return err
	}
	// A key of the index costs time, also where only some of them are read.
	p.m.charge(int64(found.Count) * visitBytes)
	end := rangeEnd(r.RangeEnd)
	for _, put := range p.puts {
		if within(put.key, r.Key, end) {
			p.m.charge(put.bytes)
		}
	}
	if p.m.over {
		return ErrOverBudget
	}
	return nil
}

// within says whether key is in the range from first to end, as etcd's store takes it.
func within(key, first, end []byte) bool {
	if end == nil {
		return bytes.Equal(key, first)
	}
	return bytes.Compare(key, first) >= 0 && (len(end) == 0 || bytes.Compare(key, end) < 0)
}

func (p *plan) put(r *pb.PutRequest) error {
	size := int64(len(r.Key) + len(r.Value) + keyBytes)
	if r.IgnoreValue || r.IgnoreLease || r.PrevKv {
		found, err := fetch(p.view, &pb.RangeRequest{Key: r.Key}, p.m)
		switch {
		case err != nil:
			return err
		case len(found.KVs) > 0 && r.IgnoreValue:
			size += int64(len(found.KVs[0].Value))
		case len(found.KVs) == 0 && (r.IgnoreValue || r.IgnoreLease):
			return KeyNotFound
		}
	}
	if r.Lease != 0 && p.lessor.Lookup(lease.LeaseID(r.Lease)) == nil {
		return LeaseNotFound
	}
	p.puts = append(p.puts, plannedPut{r.Key, size})
	return nil
}

func (p *plan) remove(r *pb.DeleteRangeRequest) error {
	if !r.PrevKv {
		return nil
	}
	return p.measure(&pb.RangeRequest{Key: r.Key, RangeEnd: r.RangeEnd})
}

func (p *plan) compares(all []*pb.Compare) (bool, error) {
	for _, c := range all {
		holds, err := p.compare(c)
		if err != nil || !holds {
			return false, err
		}
	}
	return true, nil
}

// compare says whether c holds for all keys that it is about.
func (p *plan) compare(c *pb.Compare) (bool, error) {
	found, err := fetch(p.view, &pb.RangeRequest{Key: c.Key, RangeEnd: c.RangeEnd}, p.m)
	if err != nil {
		return false, err
	}
	if len(found.KVs) == 0 {
		// There is no word for a value that is missing.
		return c.Target != pb.Compare_VALUE && holds(c, mvccpb.KeyValue{}), nil
	}
	for _, kv := range found.KVs {
		if !holds(c, kv) {
			return false, nil
		}
	}
	return true, nil
}

// holds says whether c holds for kv. A target that is missing is zero; one that is
// not known equals all, and a comparison that is not known holds: as in etcd.
func holds(c *pb.Compare, kv mvccpb.KeyValue) bool {
	var result int
	switch c.Target {
	case pb.Compare_VALUE:
		result = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		result = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		result = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		result = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		result = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return result == 0
	case pb.Compare_NOT_EQUAL:
		return result != 0
	case pb.Compare_GREATER:
		return result > 0
	case pb.Compare_LESS:
		return result < 0
	}
	return true
}

// execution does what a plan found possible.
type execution struct {
	// tx is only read from in a transaction that does not write.
	tx mvcc.TxnWrite
	// path is what is left of the plan's.
	path []bool
	// answered: somebody waits for the responses. Otherwise there are none, and what
	// only reads is left out.
	answered bool
	m        *meter
}

// whole executes r, which is in no other transaction.
func (x *execution) whole(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	resp, err := x.txn(r)
	if err != nil {
		return nil, err
	}
	resp.Header.Revision = x.tx.Rev()
	if len(x.tx.Changes()) != 0 {
		resp.Header.Revision++
	}
	return resp, nil
}

// txn executes r. The error is one of the reads; where r writes there is none.
func (x *execution) txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: x.path[0]}
	x.path = x.path[1:]
	for _, op := range branch(r, resp.Succeeded) {
		done, err := x.op(op)
		if err != nil {
			return nil, err
		}
		if x.answered {
			resp.Responses = append(resp.Responses, done)
		}
	}
	return resp, nil
}

func (x *execution) op(op *pb.RequestOp) (*pb.ResponseOp, error) {
	switch o := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		if !x.answered {
			return nil, nil
		}
		resp, err := readRange(x.tx, o.RequestRange, x.m)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: resp}}, err
	case *pb.RequestOp_RequestPut:
		resp, err := x.put(o.RequestPut)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: resp}}, err
	case *pb.RequestOp_RequestDeleteRange:
		resp, err := x.remove(o.RequestDeleteRange)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: resp}}, err
	case *pb.RequestOp_RequestTxn:
		resp, err := x.txn(o.RequestTxn)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: resp}}, err
	}
	return nil, KeyNotFound
}

func (x *execution) put(r *pb.PutRequest) (*pb.PutResponse, error) {
	value, leaseID := r.Value, lease.LeaseID(r.Lease)
	resp := &pb.PutResponse{Header: &pb.ResponseHeader{}}
	if r.IgnoreValue || r.IgnoreLease || r.PrevKv && x.answered {
		found, err := x.tx.Range(x.m, r.Key, nil, mvcc.RangeOptions{})
		if err != nil {
			return nil, err
		}
		if len(found.KVs) > 0 {
			before := &found.KVs[0]
			if r.IgnoreValue {
				value = before.Value
			}
			if r.IgnoreLease {
				leaseID = lease.LeaseID(before.Lease)
			}
			if r.PrevKv {
				resp.PrevKv = before
			}
		} else if r.IgnoreValue || r.IgnoreLease {
			return nil, fmt.Errorf("key %q is gone since it was checked", r.Key)
		}
	}
	resp.Header.Revision = x.tx.Put(r.Key, value, leaseID)
	return resp, nil
}

func (x *execution) remove(r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	resp := &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{}}
	end := rangeEnd(r.RangeEnd)
	if r.PrevKv && x.answered {
		found, err := x.tx.Range(x.m, r.Key, end, mvcc.RangeOptions{})
		if err != nil {
			return nil, err
		}
		resp.PrevKvs = make([]*mvccpb.KeyValue, len(found.KVs))
		for i := range found.KVs {
			resp.PrevKvs[i] = &found.KVs[i]
		}
	}
	resp.Deleted, resp.Header.Revision = x.tx.DeleteRange(r.Key, end)
	return resp, nil
}
