package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/proto/adminpb"
	"github.com/octopii/octopii/transport/tcp"
)

// realMember is a Node with its server and a client of that.
type realMember struct {
	*node.Node
	id    uint64
	addr  string
	etcd  *clientv3.Client
	admin adminpb.AdminClient
	// stop ends node, store and server.
	stop func()
}

// startMember starts one that founds a cluster, or waits to be added to one.
func startMember(t *testing.T, founder bool) *realMember {
	t.Helper()
	store, err := kv.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	peers, err := tcp.New(tcp.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	m := &realMember{addr: peers.Address()}
	m.Node, err = node.Start(node.Config{
		Dir: t.TempDir(), StateMachine: store, Transport: peers, Bootstrap: founder, TickInterval: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.id = m.Status().ID
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g, served := NewServer(Config{Node: m.Node, Store: store}), make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	m.etcd, err = clientv3.New(clientv3.Config{Endpoints: []string{l.Addr().String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	m.admin = adminpb.NewAdminClient(m.etcd.ActiveConnection())
	m.stop = func() {
		m.etcd.Close()
		g.Stop()
		if err := errors.Join(<-served, m.Close(), store.Close()); err != nil {
			t.Error(err)
		}
		m.stop = func() {}
	}
	t.Cleanup(func() { m.stop() })
	return m
}

// grow starts a founder and has it add others, which become voters.
func grow(t *testing.T, n int) []*realMember {
	t.Helper()
	ms := []*realMember{startMember(t, true)}
	for len(ms) < n {
		m := startMember(t, false)
		resp, err := ms[0].change(t, "add-voter", &adminpb.MemberInfo{Address: m.addr, Name: fmt.Sprint("n", len(ms)+1)}, 0)
		if err != nil || resp.Member != m.id {
			t.Fatalf("add %x: %v, %v", m.id, resp, err)
		}
		ms = append(ms, m)
	}
	return ms
}

// soon bounds a call that must succeed, or be refused.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (m *realMember) change(t *testing.T, verb string, member *adminpb.MemberInfo, old uint64) (*adminpb.ChangeMembershipResponse, error) {
	t.Helper()
	return m.admin.ChangeMembership(soon(t), &adminpb.ChangeMembershipRequest{Verb: verb, Member: member, Old: old})
}

func (m *realMember) plan(t *testing.T, verb string, member *adminpb.MemberInfo, old uint64) (*adminpb.ChangeMembershipResponse, error) {
	t.Helper()
	return m.admin.ChangeMembership(soon(t), &adminpb.ChangeMembershipRequest{Verb: verb, Member: member, Old: old, DryRun: true})
}

func info(id uint64) *adminpb.MemberInfo { return &adminpb.MemberInfo{ID: id} }

// Every verb of the administration does what its name says, on any member, and a dry
// run says so before and changes nothing.
func TestAdminVerbs(t *testing.T) {
	ms := grow(t, 3)
	reader, heir := startMember(t, false), startMember(t, false)
	at := func(m *realMember) *adminpb.MemberInfo { return &adminpb.MemberInfo{Address: m.addr, Name: "x"} }
	for _, c := range []struct {
		verb            string
		member          *adminpb.MemberInfo
		old             uint64
		voters, members uint32
		id              uint64
	}{
		{"add-learner", at(reader), 0, 3, 4, reader.id},
		{"set-priority", &adminpb.MemberInfo{ID: reader.id, Priority: -4}, 0, 3, 4, reader.id},
		{"add-voter", at(reader), 0, 4, 4, reader.id},
		{"demote", info(reader.id), 0, 3, 4, reader.id},
		{"update-address", &adminpb.MemberInfo{ID: reader.id, Address: reader.addr}, 0, 3, 4, reader.id},
		{"replace", at(heir), ms[2].id, 3, 4, heir.id},
		{"remove", info(reader.id), 0, 3, 3, reader.id},
		{"remove", info(ms[0].id), 0, 2, 2, ms[0].id}, // it leads
	} {
		before := ms[1].Status().Membership
		planned, err := ms[1].plan(t, c.verb, c.member, c.old)
		if err != nil || planned.Refused != "" || planned.After.Voters != c.voters || planned.After.Quorum != c.voters/2+1 {
			t.Fatalf("plan to %s %v: %v, %v; want %d voters", c.verb, c.member, planned, err, c.voters)
		}
		if now := ms[1].Status().Membership; now.Index != before.Index {
			t.Fatalf("a plan to %s changed the membership from %v to %v", c.verb, before, now)
		}
		got, err := ms[1].change(t, c.verb, c.member, c.old)
		if err != nil || got.After.Voters != c.voters || len(got.After.Members) != int(c.members) || got.Member != c.id || got.Before.Voters != uint32(len(before.Voters())) {
			t.Fatalf("%s %v: %v, %v; want %d voters of %d members, and member %x", c.verb, c.member, got, err, c.voters, c.members, c.id)
		}
	}
	listed, err := ms[1].admin.Membership(soon(t), &adminpb.MembershipRequest{})
	if err != nil || len(listed.Membership.Members) != 2 || listed.Membership.Quorum != 2 {
		t.Errorf("membership %v, %v; want two voters", listed, err)
	}
}

func TestAdminTransfer(t *testing.T) {
	ms := grow(t, 3)
	for _, to := range []uint64{ms[2].id, ms[2].id, ms[0].id} {
		got, err := ms[1].admin.TransferLeadership(soon(t), &adminpb.TransferLeadershipRequest{To: to})
		if err != nil || got.Leader.ID != to {
			t.Errorf("transfer to %x: %v, %v", to, got, err)
		}
	}
	got, err := ms[1].admin.TransferLeadership(soon(t), &adminpb.TransferLeadershipRequest{})
	if err != nil || got.Leader.ID == ms[0].id {
		t.Errorf("transfer to the best: %v, %v; want another one to lead", got, err)
	}
	if _, err := ms[1].admin.TransferLeadership(soon(t), &adminpb.TransferLeadershipRequest{To: 9}); status.Code(err) != codes.NotFound {
		t.Errorf("transfer to nobody: %v, want NotFound", err)
	}
	if _, err := ms[1].change(t, "demote", info(ms[0].id), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := ms[1].admin.TransferLeadership(soon(t), &adminpb.TransferLeadershipRequest{To: ms[0].id}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("transfer to a learner: %v, want FailedPrecondition", err)
	}
}

// What cannot be is refused with a reason, whatever the verb, in earnest and dry, and
// nothing is changed.
func TestAdminRefuses(t *testing.T) {
	ms := grow(t, 1)
	founder := ms[0]
	learner, stranger := startMember(t, false), startMember(t, true)
	if _, err := founder.change(t, "add-learner", &adminpb.MemberInfo{Address: learner.addr}, 0); err != nil {
		t.Fatal(err)
	}
	gone := startMember(t, false)
	if _, err := founder.change(t, "add-learner", &adminpb.MemberInfo{Address: gone.addr}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := founder.change(t, "remove", info(gone.id), 0); err != nil {
		t.Fatal(err)
	}
	// It is silent and lags from here on.
	learner.stop()
	nowhere := "127.0.0.1:1"
	if _, err := founder.change(t, "add-learner", &adminpb.MemberInfo{ID: 77, Address: nowhere}, 0); err != nil {
		t.Fatal(err)
	}
	before := founder.Status().Membership
	for _, c := range []struct {
		verb   string
		member *adminpb.MemberInfo
		old    uint64
		code   codes.Code
		says   string
	}{
		{"", info(1), 0, codes.InvalidArgument, `no verb ""`},
		{"explode", info(1), 0, codes.InvalidArgument, `no verb "explode"`},
		{"promote", nil, 0, codes.InvalidArgument, "ID is missing"},
		{"promote", info(9), 0, codes.NotFound, "no member 9"},
		{"promote", info(1<<64 - 1), 0, codes.NotFound, "no member ffffffffffffffff"},
		{"promote", info(77), 0, codes.FailedPrecondition, "not heard of"},
		{"demote", info(0), 0, codes.InvalidArgument, "ID is missing"},
		{"demote", info(9), 0, codes.NotFound, "no member 9"},
		{"demote", info(founder.id), 0, codes.FailedPrecondition, "unsafe"},
		{"remove", info(0), 0, codes.InvalidArgument, "ID is missing"},
		{"remove", info(9), 0, codes.NotFound, "no member 9"},
		{"remove", info(gone.id), 0, codes.NotFound, "no member"},
		{"remove", info(founder.id), 0, codes.FailedPrecondition, "unsafe"},
		{"set-priority", info(0), 0, codes.InvalidArgument, "ID is missing"},
		{"set-priority", info(9), 0, codes.NotFound, "no member 9"},
		{"update-address", info(77), 0, codes.InvalidArgument, "HOST:PORT"},
		{"update-address", &adminpb.MemberInfo{Address: nowhere}, 0, codes.InvalidArgument, "ID is missing"},
		{"update-address", &adminpb.MemberInfo{ID: 9, Address: nowhere}, 0, codes.NotFound, "no member 9"},
		{"update-address", &adminpb.MemberInfo{ID: 77, Address: stranger.addr}, 0, codes.FailedPrecondition, "address of member"},
		{"add-learner", nil, 0, codes.InvalidArgument, "HOST:PORT"},
		{"add-learner", &adminpb.MemberInfo{Address: "localhost"}, 0, codes.InvalidArgument, "HOST:PORT"},
		{"add-learner", &adminpb.MemberInfo{Address: ":2380"}, 0, codes.InvalidArgument, "HOST:PORT"},
		{"add-learner", &adminpb.MemberInfo{Address: "localhost:0"}, 0, codes.InvalidArgument, "no port"},
		{"add-learner", &adminpb.MemberInfo{Address: "localhost:http"}, 0, codes.InvalidArgument, "no port"},
		{"add-learner", &adminpb.MemberInfo{Address: "localhost:99999"}, 0, codes.InvalidArgument, "no port"},
		{"add-learner", &adminpb.MemberInfo{Address: nowhere}, 0, codes.FailedPrecondition, "octopiid start --join"},
		{"add-learner", &adminpb.MemberInfo{ID: 1<<64 - 1, Address: nowhere}, 0, codes.FailedPrecondition, "no member can have"},
		{"add-learner", &adminpb.MemberInfo{Address: stranger.addr}, 0, codes.FailedPrecondition, "cluster mismatch"},
		{"add-learner", &adminpb.MemberInfo{ID: 5, Address: stranger.addr}, 0, codes.FailedPrecondition, "not of 5"},
		{"add-learner", &adminpb.MemberInfo{ID: gone.id, Address: nowhere}, 0, codes.AlreadyExists, "removed member's ID"},
		{"add-learner", &adminpb.MemberInfo{ID: founder.id, Address: founder.addr}, 0, codes.FailedPrecondition, "voter already"},
		{"add-voter", &adminpb.MemberInfo{Address: nowhere}, 0, codes.FailedPrecondition, "octopiid start --join"},
		{"add-voter", &adminpb.MemberInfo{ID: gone.id, Address: nowhere}, 0, codes.AlreadyExists, "removed member's ID"},
		{"replace", &adminpb.MemberInfo{Address: nowhere}, 0, codes.InvalidArgument, "ID of the old one is missing"},
		{"replace", &adminpb.MemberInfo{}, 77, codes.InvalidArgument, "HOST:PORT"},
		{"replace", &adminpb.MemberInfo{ID: 5, Address: nowhere}, 9, codes.FailedPrecondition, "no member 9"},
		{"replace", &adminpb.MemberInfo{ID: 77, Address: nowhere}, 77, codes.FailedPrecondition, "cannot replace"},
		{"replace", &adminpb.MemberInfo{Address: stranger.addr}, 77, codes.FailedPrecondition, "cluster mismatch"},
	} {
		_, err := founder.change(t, c.verb, c.member, c.old)
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q %v for %x: %v; want %s with %q", c.verb, c.member, c.old, err, c.code, c.says)
		}
		planned, dry := founder.plan(t, c.verb, c.member, c.old)
		if c.code == codes.InvalidArgument {
			if status.Code(dry) != c.code {
				t.Errorf("plan to %q %v for %x: %v, want %s", c.verb, c.member, c.old, dry, c.code)
			}
		} else if dry != nil || planned.Refused != status.Convert(err).Message() || planned.After != nil || planned.Before.Voters != 1 {
			t.Errorf("plan to %q %v for %x: %v, %v; want it refused as it would be: %v", c.verb, c.member, c.old, planned, dry, err)
		}
	}
	if now := founder.Status().Membership; now.Index != before.Index || !slices.Equal(now.Members, before.Members) {
		t.Errorf("what was refused changed the membership from %v to %v", before, now)
	}
}

// A change that takes too long tells its caller how far it has come.
func TestAdminAnswersInTime(t *testing.T) {
	founder := grow(t, 1)[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := founder.admin.ChangeMembership(ctx, &adminpb.ChangeMembershipRequest{
		Verb: "add-voter", Member: &adminpb.MemberInfo{ID: 8, Address: "127.0.0.1:1"},
	})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "promoted once it has caught up") {
		t.Errorf("add a voter that is not there: %v; want Unavailable with what becomes of it", err)
	}
}

// What the node says becomes a code, with all that it said.
func TestMemberErrors(t *testing.T) {
	f, c := serve(t, Config{})
	admin := adminpb.NewAdminClient(c.ActiveConnection())
	for name, e := range map[string]struct {
		err  error
		code codes.Code
	}{
		"busy":     {fmt.Errorf("%w (at 7)", node.ErrMembershipBusy), codes.Unavailable},
		"unsafe":   {fmt.Errorf("%w (2 of 3)", node.ErrUnsafeMembership), codes.FailedPrecondition},
		"reused":   {node.ErrIDReused, codes.AlreadyExists},
		"closed":   {node.ErrClosed, codes.Unavailable},
		"no space": {node.ErrNoSpace, codes.ResourceExhausted},
		"unknown":  {node.ErrUnknownOutcome, codes.Unavailable},
		"late":     {fmt.Errorf("%w: %w", node.ErrUnknownOutcome, context.DeadlineExceeded), codes.Unavailable},
		"given up": {fmt.Errorf("it did not show up: %w", node.ErrRemoved), codes.Aborted},
		"other":    {errors.New("other"), codes.FailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			f.set(func(f *fakeNode) { f.fails = []error{nil, e.err} })
			_, err := admin.ChangeMembership(t.Context(), &adminpb.ChangeMembershipRequest{Verb: "remove", Member: info(2)})
			if status.Code(err) != e.code || !strings.Contains(err.Error(), e.err.Error()) {
				t.Errorf("change: %v; want %s with %q", err, e.code, e.err)
			}
			f.set(func(f *fakeNode) { f.fails = []error{nil, e.err} })
			_, err = admin.TransferLeadership(t.Context(), &adminpb.TransferLeadershipRequest{To: 1})
			if status.Code(err) != e.code {
				t.Errorf("transfer: %v; want %s", err, e.code)
			}
		})
	}
	f.set(func(f *fakeNode) { f.fails, f.status.Leader = []error{context.DeadlineExceeded}, 0 })
	_, err := admin.Membership(t.Context(), &adminpb.MembershipRequest{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no leader") {
		t.Errorf("without a leader: %v; want Unavailable", err)
	}
	f.set(func(f *fakeNode) { f.fails = []error{node.ErrRemoved, node.ErrRemoved} })
	if _, err := admin.Membership(t.Context(), &adminpb.MembershipRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("on a removed member: %v; want Unavailable", err)
	}
}

// etcd's calls do the same, and speak etcd's words.
func TestEtcdMembers(t *testing.T) {
	ms := grow(t, 3)
	c := ms[1].etcd
	next := startMember(t, false)
	url := []string{"http://" + next.addr}
	added, err := c.MemberAddAsLearner(soon(t), url)
	if err != nil || added.Member.ID != next.id || !added.Member.IsLearner || len(added.Members) != 4 {
		t.Fatalf("add a learner: %v, %v", added, err)
	}
	if _, err := c.MoveLeader(soon(t), next.id); !errors.Is(err, rpctypes.ErrBadLeaderTransferee) {
		t.Errorf("move the leader to a learner: %v", err)
	}
	ctx := soon(t)
	promoted, err := c.MemberPromote(ctx, next.id)
	for errors.Is(err, rpctypes.ErrMemberLearnerNotReady) { // as etcd's users do, until it is in sync
		promoted, err = c.MemberPromote(ctx, next.id)
	}
	if err != nil || len(promoted.Members) != 4 || slices.ContainsFunc(promoted.Members, func(m *pb.Member) bool { return m.IsLearner }) {
		t.Fatalf("promote: %v, %v", promoted, err)
	}
	if _, err := c.MemberUpdate(soon(t), next.id, url); err != nil {
		t.Errorf("update to where it is: %v", err)
	}
	if _, err := c.MoveLeader(soon(t), next.id); err != nil || ms[1].Status().Leader != next.id {
		t.Errorf("move the leader: %v", err)
	}
	removed, err := c.MemberRemove(soon(t), next.id)
	if err != nil || len(removed.Members) != 3 {
		t.Fatalf("remove the leader: %v, %v", removed, err)
	}
	voter := startMember(t, false)
	whole, err := c.MemberAdd(soon(t), []string{"https://" + voter.addr})
	if err != nil || whole.Member.ID != voter.id || whole.Member.IsLearner || len(whole.Members) != 4 {
		t.Fatalf("add a voter: %v, %v", whole, err)
	}
}

func TestEtcdMembersRefused(t *testing.T) {
	founder := grow(t, 1)[0]
	c, stranger := founder.etcd, startMember(t, true)
	if _, err := founder.change(t, "add-learner", &adminpb.MemberInfo{ID: 7, Address: "127.0.0.1:1"}, 0); err != nil {
		t.Fatal(err)
	}
	before := founder.Status().Membership
	raw := pb.NewClusterClient(c.ActiveConnection()) // etcd's client looks at URLs itself
	add := func(urls ...string) error {
		_, err := raw.MemberAdd(soon(t), &pb.MemberAddRequest{PeerURLs: urls})
		return rpctypes.Error(err)
	}
	update := func(id uint64, urls ...string) error {
		_, err := raw.MemberUpdate(soon(t), &pb.MemberUpdateRequest{ID: id, PeerURLs: urls})
		return rpctypes.Error(err)
	}
	promote := func(id uint64) error { _, err := c.MemberPromote(soon(t), id); return err }
	remove := func(id uint64) error { _, err := c.MemberRemove(soon(t), id); return err }
	move := func(id uint64) error { _, err := c.MoveLeader(soon(t), id); return err }
	for name, e := range map[string]struct{ got, want error }{
		"add at two addresses":      {add("http://127.0.0.1:1", "http://127.0.0.1:2"), rpctypes.ErrMemberBadURLs},
		"add nowhere":               {add(), rpctypes.ErrMemberBadURLs},
		"add without a scheme":      {add("127.0.0.1:2"), rpctypes.ErrMemberBadURLs},
		"add at a path":             {add("http://127.0.0.1:2/x"), rpctypes.ErrMemberBadURLs},
		"add at no port":            {add("http://127.0.0.1"), rpctypes.ErrMemberBadURLs},
		"add where there is one":    {add("http://127.0.0.1:1"), rpctypes.ErrPeerURLExist},
		"update nobody":             {update(9, "http://127.0.0.1:2"), rpctypes.ErrMemberNotFound},
		"update to nowhere":         {update(7), rpctypes.ErrMemberBadURLs},
		"update to another's":       {update(7, "http://"+founder.addr), rpctypes.ErrPeerURLExist},
		"promote nobody":            {promote(9), rpctypes.ErrMemberNotFound},
		"promote a voter":           {promote(founder.id), rpctypes.ErrMemberNotLearner},
		"promote who is not there":  {promote(7), rpctypes.ErrMemberLearnerNotReady},
		"remove nobody":             {remove(9), rpctypes.ErrMemberNotFound},
		"remove the last voter":     {remove(founder.id), rpctypes.ErrMemberNotEnoughStarted},
		"move the leader to nobody": {move(9), rpctypes.ErrBadLeaderTransferee},
	} {
		if !errors.Is(e.got, e.want) {
			t.Errorf("%s: %v; want %v", name, e.got, e.want)
		}
	}
	for name, e := range map[string]struct {
		got  error
		says string
	}{
		"add where nobody is":    {add("http://127.0.0.1:2"), "octopiid start --join"},
		"add a stranger":         {add("http://" + stranger.addr), "cluster mismatch"},
		"update to a stranger's": {update(7, "http://"+stranger.addr), "address of member"},
	} {
		if code(e.got) != codes.FailedPrecondition || !strings.Contains(e.got.Error(), e.says) {
			t.Errorf("%s: %v; want FailedPrecondition with %q", name, e.got, e.says)
		}
	}
	if now := founder.Status().Membership; now.Index != before.Index {
		t.Errorf("what was refused changed the membership from %v to %v", before, now)
	}
	waiting := startMember(t, false)
	if _, err := waiting.etcd.MemberRemove(soon(t), 7); code(err) != codes.Unavailable || !strings.Contains(err.Error(), "ask another") {
		t.Errorf("on a member that belongs to no cluster: %v; want Unavailable", err)
	}
	if _, err := waiting.change(t, "remove", info(7), 0); !errors.Is(err, errUninitialized) {
		t.Errorf("on a member that belongs to no cluster: %v; want %v", err, errUninitialized)
	}
}
