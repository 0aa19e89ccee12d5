package etcdapi

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
)

// Between two attempts to propose what was certainly not committed.
const (
	retryPauseMin = 10 * time.Millisecond
	retryPauseMax = 200 * time.Millisecond
)

type kvServer struct {
	pb.UnimplementedKVServer
	*server
}

func (s *kvServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := kv.CheckRange(r); err != nil {
		return nil, err
	}
	if err := s.readable(ctx, r.Serializable); err != nil {
		return nil, err
	}
	var resp *pb.RangeResponse
	err := s.reading(ctx, len(r.RangeEnd) > 0, func(grant kv.Grant) (err error) {
		resp, err = s.cfg.Store.Range(ctx, r, grant)
		return err
	})
	if err != nil {
		return nil, err
	}
	resp.Header = s.fill(resp.Header)
	return resp, nil
}

// readable returns when the store may be read.
func (s *server) readable(ctx context.Context, serializable bool) error {
	if serializable {
		return s.initialized()
	}
	return s.barrier(ctx)
}

func (s *kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := kv.CheckPut(r); err != nil {
		return nil, err
	}
	resp := new(pb.PutResponse)
	if err := s.execute(ctx, &pb.InternalRaftRequest{Put: r}, resp); err != nil {
		return nil, err
	}
	resp.Header = s.fill(resp.Header)
	return resp, nil
}

func (s *kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := kv.CheckDeleteRange(r); err != nil {
		return nil, err
	}
	resp := new(pb.DeleteRangeResponse)
	if err := s.execute(ctx, &pb.InternalRaftRequest{DeleteRange: r}, resp); err != nil {
		return nil, err
	}
	resp.Header = s.fill(resp.Header)
	return resp, nil
}

func (s *kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := kv.CheckTxn(r); err != nil {
		return nil, err
	}
	resp, err := s.txn(ctx, r)
	if err != nil {
		return nil, err
	}
	resp.Header = s.fill(resp.Header)
	return resp, nil
}

func (s *kvServer) txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if kv.ReadOnly(r) {
		if err := s.readable(ctx, kv.Serializable(r)); err != nil {
			return nil, err
		}
		var resp *pb.TxnResponse
		err := s.reading(ctx, manyKeys(r), func(grant kv.Grant) (err error) {
			resp, err = s.cfg.Store.ReadTxn(ctx, r, grant)
			return err
		})
		return resp, err
	}
	resp := new(pb.TxnResponse)
	return resp, s.execute(ctx, &pb.InternalRaftRequest{Txn: r}, resp)
}

func (s *kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	resp := new(pb.CompactionResponse)
	if err := s.execute(ctx, &pb.InternalRaftRequest{Compaction: r}, resp); err != nil {
		return nil, err
	}
	if r.Physical {
		// This member does it alone, and it takes as long as it takes.
		if err := s.cfg.Store.WaitCompacted(clientContext(ctx)); err != nil {
			return nil, err
		}
	}
	resp.Header = s.fill(resp.Header)
	return resp, nil
}

// execute has r committed and applied, and reads its response into resp. Before, it
// waits until there is memory for all that the response may have.
func (s *server) execute(ctx context.Context, r *pb.InternalRaftRequest, resp interface{ Unmarshal([]byte) error }) error {
	readBytes := kv.ReadBytesGuess(r)
	for {
		if readBytes > answerFreeBytes {
			if err := ticketOf(ctx).reserve(ctx, answerCopies*readBytes); err != nil {
				return err
			}
		}
		err := s.executeOnce(ctx, r, readBytes, resp)
		if !errors.Is(err, kv.TooMuchRead) || readBytes == kv.ReadBytesMax {
			return err
		}
		readBytes = kv.ReadBytesMax // nothing has happened; the guess was too low
	}
}

func (s *server) executeOnce(ctx context.Context, r *pb.InternalRaftRequest, readBytes int64, resp interface{ Unmarshal([]byte) error }) error {
	command, err := s.cfg.Store.RequestCommand(r, readBytes)
	if err != nil {
		return err
	}
	if len(command) > s.cfg.RequestBytesMax {
		return node.ErrTooLarge
	}
	if s.cfg.Store.NoSpace() && kv.Grows(r) || !s.cfg.Store.FitsDeletes(r, s.cfg.Node.Status().LittleRoom) {
		return node.ErrNoSpace
	}
	var result node.Result
	err = s.scanWrites.inTurn(ctx, scansMany(r), func() (err error) {
		result, err = propose(ctx, s.cfg.Node, command)
		return err
	})
	if err != nil {
		return err
	}
	return kv.DecodeResult(result.Data, resp)
}

// doubtMax is how long a request waits for a member that doubts its own log: a majority
// mostly says within that what is true, and else nobody may say it for hours.
const doubtMax = time.Second

// propose tries again for as long as ctx lasts when a command was certainly not
// committed, so that clients need not know of it, unless this member has stopped, or waits
// for somebody to settle which of two clusters is right, or for a majority.
func propose(ctx context.Context, n Node, command []byte) (node.Result, error) {
	var waited time.Duration
	for pause := retryPauseMin; ; pause = min(2*pause, retryPauseMax) {
		result, err := n.Propose(ctx, command)
		if errors.Is(err, node.ErrSuspect) || errors.Is(err, node.ErrDiverged) {
			if waited += pause; waited > doubtMax {
				return result, err
			}
		}
		if !retryable(err) || !sleep(ctx, pause) {
			return result, err
		}
	}
}

func retryable(err error) bool {
	var notLeader *node.NotLeaderError
	stopped := errors.Is(err, node.ErrClosed) || errors.Is(err, node.ErrRemoved) || errors.Is(err, node.ErrClaimed)
	return errors.Is(err, node.ErrNotCommitted) && !stopped || errors.As(err, &notLeader)
}

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
