package etcdapi

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/node"
)

type maintenanceServer struct {
	pb.UnimplementedMaintenanceServer
	*server
}

// Status answers on every member, in whatever state it is.
func (s *maintenanceServer) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	st := s.cfg.Node.Status()
	total, inUse := s.cfg.Store.Size()
	self, _ := st.Membership.Member(st.ID)
	resp := &pb.StatusResponse{
		Header: s.fill(nil),
		// The version of the API, by which clients decide what to use.
		Version:          version.Version,
		Leader:           st.Leader,
		RaftTerm:         st.Term,
		RaftIndex:        st.Commit,
		RaftAppliedIndex: st.Applied,
		DbSize:           total,
		DbSizeInUse:      inUse,
		IsLearner:        self.Learner,
	}
	if st.Leader == 0 {
		resp.Errors = append(resp.Errors, "octopii: no leader")
	}
	if why := st.NoMajority(); why != "" {
		resp.Errors = append(resp.Errors, "octopii: "+why)
	}
	if st.Suspended != nil {
		resp.Errors = append(resp.Errors, "octopii: this member serves nothing: "+st.Suspended.Error())
	}
	if st.Claimed != nil {
		resp.Errors = append(resp.Errors, "octopii: "+st.Claimed.Error())
	}
	if st.Behind != nil {
		resp.Errors = append(resp.Errors, "octopii: "+st.Behind.Error())
	}
	if why := s.cfg.Store.Stuck(); why != "" {
		resp.Errors = append(resp.Errors, "octopii: "+why)
	} else if st.NoSpace || s.cfg.Store.NoSpace() {
		resp.Errors = append(resp.Errors, "octopii: this member's volume is full: it takes nothing that makes the database grow; free some space, delete keys and compact, or enlarge the volume")
	}
	if st.NoRoomForSnapshot {
		resp.Errors = append(resp.Errors, "octopii: "+node.AdviceNoRoomForSnapshot)
	}
	for _, o := range st.Suspects {
		resp.Errors = append(resp.Errors, fmt.Sprintf("octopii: member %x lacks entries %d to %d, which it is known to have had: put a newer copy of its disk back, or start the members that lost entries once with --accept-loss",
			o.ID, o.LastIndex+1, o.Remembered))
	}
	for _, b := range st.Branches {
		resp.Errors = append(resp.Errors, forgotten(b, st.Membership))
	}
	return resp, nil
}

// forgotten says what a majority forgot, and who has it or where it is.
func forgotten(b node.Branch, ms node.Membership) string {
	has := "has: keep its files"
	if _, ok := ms.Member(b.ID); !ok {
		has = "had, which is no member any more: its files are in quarantine/ in the data directory of that machine, if octopiid put them aside; keep them"
	}
	return fmt.Sprintf("octopii: a majority forgot entries %d to %d, which member %x %s, and see README.md, \"A majority forgot\"; members say so until they are started again",
		b.First, b.Last, b.ID, has)
}

// Alarm lists alarms, of which there are none.
func (s *maintenanceServer) Alarm(_ context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	if r.Action != pb.AlarmRequest_GET {
		return nil, status.Errorf(codes.Unimplemented, "octopii: alarms can be listed only, not %s", r.Action)
	}
	return &pb.AlarmResponse{Header: s.fill(nil)}, nil
}

// MoveLeader may be asked of any member; etcd wants the leader to be asked.
func (s *maintenanceServer) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	ctx, cancel := inTime(ctx)
	defer cancel()
	ms, err := s.membership(ctx)
	if err != nil {
		return nil, err
	}
	if target, ok := ms.Member(r.TargetID); !ok || target.Learner {
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	}
	if err := s.cfg.Node.TransferLeadership(ctx, r.TargetID); err != nil {
		return nil, s.failed(ctx, err)
	}
	return &pb.MoveLeaderResponse{Header: s.fill(nil)}, nil
}
