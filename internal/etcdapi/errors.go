package etcdapi

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
)

var (
	errUninitialized = status.Error(codes.Unavailable, "octopii: this member is not yet part of a cluster; ask another, or retry")
	errRemoved       = status.Error(codes.Unavailable, "octopii: this member was removed from its cluster; ask another")
	errSuspect       = status.Error(codes.Unavailable, "octopii: this member's disk may have lost entries, and it serves nothing until a majority has answered; ask another, and see octopiictl status")
	errDiverged      = status.Error(codes.Unavailable, "octopii: this member's log is another one than that of the majority, and it serves nothing; ask another, and see octopiictl status")
	errMalformed     = status.Error(codes.InvalidArgument, "octopii: the request cannot be read")
	errUnsupported   = status.Error(codes.Unimplemented, "octopii: there is no such request")
)

// rejections are etcd's words for why a command was refused.
var rejections = map[kv.Rejection]error{
	kv.Malformed:         errMalformed,
	kv.EmptyKey:          rpctypes.ErrGRPCEmptyKey,
	kv.ValueProvided:     rpctypes.ErrGRPCValueProvided,
	kv.LeaseProvided:     rpctypes.ErrGRPCLeaseProvided,
	kv.TooManyOps:        rpctypes.ErrGRPCTooManyOps,
	kv.DuplicateKey:      rpctypes.ErrGRPCDuplicateKey,
	kv.InvalidSortOption: rpctypes.ErrGRPCInvalidSortOption,
	kv.KeyNotFound:       rpctypes.ErrGRPCKeyNotFound,
	kv.LeaseNotFound:     rpctypes.ErrGRPCLeaseNotFound,
	kv.Compacted:         rpctypes.ErrGRPCCompacted,
	kv.FutureRev:         rpctypes.ErrGRPCFutureRev,
	kv.Unsupported:       errUnsupported,
	kv.TooMuchRead:       rpctypes.ErrGRPCRequestTooLarge,
}

// nodeErrors are etcd's words for what a Node says. Of these, Unavailable is
// what clients retry reads on; ResourceExhausted means that nothing happened.
var nodeErrors = []struct{ is, answer error }{
	{errAnswersFull, rpctypes.ErrGRPCRequestTooManyRequests},
	{errConnectionGone, rpctypes.ErrGRPCCanceled},
	// In front of ErrNotCommitted, which it comes with: another member may do better.
	{context.DeadlineExceeded, rpctypes.ErrGRPCTimeout},
	{node.ErrUninitialized, errUninitialized},
	{node.ErrRemoved, errRemoved},
	{node.ErrSuspect, errSuspect},
	{node.ErrDiverged, errDiverged},
	{node.ErrOverloaded, rpctypes.ErrGRPCRequestTooManyRequests},
	{node.ErrTooLarge, rpctypes.ErrGRPCRequestTooLarge},
	{node.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
	{node.ErrUnknownOutcome, rpctypes.ErrGRPCTimeout},
	{node.ErrClosed, rpctypes.ErrGRPCStopped},
	{node.ErrNotCommitted, rpctypes.ErrGRPCLeaderChanged},
	{kv.ErrClosed, rpctypes.ErrGRPCStopped},
	// Another member answers: this one stops, and is rebuilt.
	{kv.ErrDamaged, rpctypes.ErrGRPCStopped},
	{context.Canceled, rpctypes.ErrGRPCCanceled},
}

// toStatus returns the answer to a request that failed with err. ctx is the
// client's own.
func toStatus(ctx context.Context, err error) error {
	var rejected kv.Rejection
	if errors.As(err, &rejected) {
		if answer, ok := rejections[rejected]; ok {
			return answer
		}
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	// The client's own deadline, or its farewell, is what it should hear of.
	switch ctx.Err() {
	case context.DeadlineExceeded:
		return rpctypes.ErrGRPCDeadlineExceeded
	case context.Canceled:
		return rpctypes.ErrGRPCCanceled
	}
	var notLeader *node.NotLeaderError
	if errors.As(err, &notLeader) {
		return rpctypes.ErrGRPCNoLeader
	}
	var claimed *node.ClaimedError
	if errors.As(err, &claimed) {
		return status.Error(codes.Unavailable, "octopii: this member serves nothing: "+claimed.Error())
	}
	for _, e := range nodeErrors {
		if errors.Is(err, e.is) {
			return e.answer
		}
	}
	return status.Error(codes.Unknown, err.Error())
}
