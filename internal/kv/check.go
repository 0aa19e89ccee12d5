package kv

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/pkg/v3/adt"
)

// TxnOpsMax is how many compares, operations on success, or operations on
// failure a transaction may have, those of the transactions around it included.
// It is the same on all members, as it decides what Apply does.
const TxnOpsMax = 128

// CheckRange says what is wrong with r by itself, whatever the state is: nil or
// a Rejection, as do the other checks. Apply makes the same checks as a server
// should make before it proposes, because etcd's parts panic on some requests
// that pass no check, and a committed entry would then stop every member.
func CheckRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return EmptyKey
	}
	_, order := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]
	_, target := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]
	if !order || !target {
		return InvalidSortOption
	}
	return nil
}

// CheckPut says what is wrong with r.
func CheckPut(r *pb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return EmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return ValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return LeaseProvided
	}
	return nil
}

// CheckDeleteRange says what is wrong with r.
func CheckDeleteRange(r *pb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return EmptyKey
	}
	return nil
}

// CheckTxn says what is wrong with r and the transactions inside it.
func CheckTxn(r *pb.TxnRequest) error {
	if err := checkOps(r, TxnOpsMax); err != nil {
		return err
	}
	if _, err := writesOf(r.Success); err != nil {
		return err
	}
	_, err := writesOf(r.Failure)
	return err
}

// checkOps checks every operation for itself. opsLeft also bounds the depth.
func checkOps(r *pb.TxnRequest, opsLeft int) error {
	if r == nil {
		return Malformed
	}
	ops := max(len(r.Compare), len(r.Success), len(r.Failure))
	if ops > opsLeft {
		return TooManyOps
	}
	for _, c := range r.Compare {
		if len(c.GetKey()) == 0 {
			return EmptyKey
		}
	}
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if err := checkOp(op, opsLeft-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, opsLeft int) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return CheckRange(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return CheckPut(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return CheckDeleteRange(o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkOps(o.RequestTxn, opsLeft)
	}
	// An operation of a kind that this version does not know. etcd says the same.
	return KeyNotFound
}

// writes are the keys that one branch of a transaction may put, and the ranges
// that it may delete.
type writes struct {
	puts map[string]bool
	dels adt.IntervalTree
}

// writesOf collects what a branch writes, and rejects it when it puts a key
// twice, or puts one that it also deletes.
func writesOf(branch []*pb.RequestOp) (writes, error) {
	w := writes{puts: make(map[string]bool), dels: adt.NewIntervalTree()}
	for _, op := range branch {
		w.addDelete(op.GetRequestDeleteRange())
	}
	for _, op := range branch {
		if err := w.addTxn(op.GetRequestTxn()); err != nil {
			return writes{}, err
		}
	}
	for _, op := range branch {
		put := op.GetRequestPut()
		if put == nil {
			continue
		}
		if err := w.addPut(string(put.Key), nil); err != nil {
			return writes{}, err
		}
	}
	return w, nil
}

// addDelete adds a range, unless it holds no key.
func (w *writes) addDelete(r *pb.DeleteRangeRequest) {
	if r == nil {
		return
	}
	key, end := string(r.Key), string(r.RangeEnd)
	switch {
	case end == "":
		w.dels.Insert(adt.NewStringAffinePoint(key), nil)
	case end == "\x00":
		// All keys from here on, which the tree knows by the empty string.
		w.dels.Insert(adt.NewStringAffineInterval(key, ""), nil)
	case key < end:
		w.dels.Insert(adt.NewStringAffineInterval(key, end), nil)
	}
}

// addTxn adds what either branch of a transaction inside this one writes.
func (w *writes) addTxn(r *pb.TxnRequest) error {
	if r == nil {
		return nil
	}
	success, err := writesOf(r.Success)
	if err != nil {
		return err
	}
	failure, err := writesOf(r.Failure)
	if err != nil {
		return err
	}
	for key := range success.puts {
		if err := w.addPut(key, nil); err != nil {
			return err
		}
	}
	for key := range failure.puts {
		if err := w.addPut(key, success.puts); err != nil {
			return err
		}
	}
	everything := adt.NewStringAffineInterval("\x00", "")
	w.dels.Union(success.dels, everything)
	w.dels.Union(failure.dels, everything)
	return nil
}

// addPut adds a key. It may be there already if it is in other, the branch that
// is taken when this one is not.
func (w *writes) addPut(key string, other map[string]bool) error {
	if w.puts[key] && !other[key] {
		return DuplicateKey
	}
	if w.dels.Intersects(adt.NewStringAffinePoint(key)) {
		return DuplicateKey
	}
	w.puts[key] = true
	return nil
}

// Grows implements node.Limited.
func (s *Store) Grows(command []byte) bool {
	c, err := decodeCommand(command)
	return err == nil && c.request != nil && Grows(c.request)
}

// Grows says whether executing a request may make the store larger for good: one that
// puts something. Deletes and compactions make it smaller in the end.
func Grows(r *pb.InternalRaftRequest) bool {
	return r.Put != nil || r.Txn != nil && (puts(r.Txn.Success) || puts(r.Txn.Failure))
}

func puts(ops []*pb.RequestOp) bool {
	for _, op := range ops {
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			return true
		case *pb.RequestOp_RequestTxn:
			if o.RequestTxn != nil && (puts(o.RequestTxn.Success) || puts(o.RequestTxn.Failure)) {
				return true
			}
		}
	}
	return false
}

// singleReadBytes is what ReadBytesGuess takes for the value of one key.
const singleReadBytes = 64 << 10

// ReadBytesGuess says how many bytes a command that executes r will read, if keys are
// as large as most are. It is ReadBytesMax where many keys are read.
func ReadBytesGuess(r *pb.InternalRaftRequest) int64 {
	g := readGuess{}
	switch {
	case r.Put != nil:
		g.put(r.Put)
	case r.DeleteRange != nil:
		g.remove(r.DeleteRange)
	case r.Txn != nil:
		g.txn(r.Txn)
	}
	if g.many {
		return ReadBytesMax
	}
	return min(g.keys*singleReadBytes, ReadBytesMax)
}

type readGuess struct {
	keys int64
	many bool
}

func (g *readGuess) add(end []byte) {
	g.keys++
	g.many = g.many || len(end) > 0
}

func (g *readGuess) put(r *pb.PutRequest) {
	if r.PrevKv || r.IgnoreValue || r.IgnoreLease {
		g.add(nil)
	}
}

func (g *readGuess) remove(r *pb.DeleteRangeRequest) {
	if r.PrevKv {
		g.add(r.RangeEnd)
	}
}

func (g *readGuess) txn(r *pb.TxnRequest) {
	for _, c := range r.Compare {
		g.add(c.RangeEnd)
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			switch o := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				g.add(o.RequestRange.RangeEnd)
			case *pb.RequestOp_RequestPut:
				g.put(o.RequestPut)
			case *pb.RequestOp_RequestDeleteRange:
				g.remove(o.RequestDeleteRange)
			case *pb.RequestOp_RequestTxn:
				g.txn(o.RequestTxn)
			}
		}
	}
}
