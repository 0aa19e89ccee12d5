package main

import (
	stdcmp "cmp"
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/proto/adminpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers as a member would: ID 0xa leads, in a cluster of a and the
// learner b.
type server struct {
	etcdserverpb.UnimplementedMaintenanceServer
	etcdserverpb.UnimplementedClusterServer
	adminpb.UnimplementedAdminServer
	id      uint64
	learner bool
	// problems are what it says is wrong; leaderless: it knows no leader, and answers
	// nothing that needs one.
	problems []string
	// removed: it answers no question about the membership any more. other is where the
	// other member serves clients.
	removed    atomic.Bool
	other      string
	leaderless bool
	// change answers a change of membership, transfer a transfer of leadership.
	change   func(*adminpb.ChangeMembershipRequest) (*adminpb.ChangeMembershipResponse, error)
	transfer func(to uint64) (*adminpb.MemberInfo, error)
}

func (s *server) Membership(ctx context.Context, _ *adminpb.MembershipRequest) (*adminpb.MembershipResponse, error) {
	if s.leaderless {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if s.removed.Load() {
		return nil, status.Error(codes.Unavailable, "octopii: the member that was asked was removed")
	}
	return &adminpb.MembershipResponse{Membership: two()}, nil
}

func (s *server) ChangeMembership(_ context.Context, r *adminpb.ChangeMembershipRequest) (*adminpb.ChangeMembershipResponse, error) {
	return s.change(r)
}

func (s *server) TransferLeadership(_ context.Context, r *adminpb.TransferLeadershipRequest) (*adminpb.TransferLeadershipResponse, error) {
	m, err := s.transfer(r.To)
	return &adminpb.TransferLeadershipResponse{Leader: m}, err
}

func (s *server) SetFailover(_ context.Context, r *adminpb.SetFailoverRequest) (*adminpb.SetFailoverResponse, error) {
	ms := two()
	ms.FailoverByTimeout = r.ByTimeout
	return &adminpb.SetFailoverResponse{Membership: ms}, nil
}

// two is a voter and a learner.
func two() *adminpb.MembershipInfo {
	return &adminpb.MembershipInfo{Index: 5, Voters: 1, Quorum: 1, Members: []*adminpb.MemberInfo{
		{ID: 0xa, Name: "n1", Address: "h1:1", Priority: 2},
		{ID: 0xb, Name: "n2", Address: "h2:1", Learner: true},
	}}
}

func (s *server) Status(context.Context, *etcdserverpb.StatusRequest) (*etcdserverpb.StatusResponse, error) {
	leader := uint64(0xa)
	if s.leaderless {
		leader = 0
	}
	return &etcdserverpb.StatusResponse{
		Header:    &etcdserverpb.ResponseHeader{MemberId: s.id},
		Version:   "3.6.16",
		Leader:    leader,
		Errors:    s.problems,
		IsLearner: s.learner,
		RaftTerm:  2, RaftIndex: 23, RaftAppliedIndex: 22,
	}, nil
}

func (s *server) MemberList(ctx context.Context, _ *etcdserverpb.MemberListRequest) (*etcdserverpb.MemberListResponse, error) {
	if s.leaderless {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &etcdserverpb.MemberListResponse{
		Header: &etcdserverpb.ResponseHeader{MemberId: s.id},
		Members: []*etcdserverpb.Member{
			{ID: 0xa, Name: "n1", PeerURLs: []string{"http://p1"}, ClientURLs: []string{"http://c1"}},
			{ID: 0xb, Name: "n2", PeerURLs: []string{"http://p2"}, ClientURLs: []string{stdcmp.Or(s.other, "http://c2")}, IsLearner: true},
		},
	}, nil
}

// uninitialized answers as a member that is not part of a cluster yet.
func uninitialized(t *testing.T) string {
	s := &server{}
	s.removed.Store(true)
	s.change = func(*adminpb.ChangeMembershipRequest) (*adminpb.ChangeMembershipResponse, error) {
		return nil, status.Error(codes.Unavailable, "octopii: this member is not yet part of a cluster; ask another, or retry")
	}
	return serve(t, s)
}

// serve starts a server and returns its address.
func serve(t *testing.T, s *server, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(opts...)
	etcdserverpb.RegisterMaintenanceServer(g, s)
	etcdserverpb.RegisterClusterServer(g, s)
	adminpb.RegisterAdminServer(g, s)
	ended := make(chan struct{})
	go func() { defer close(ended); g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-ended })
	return l.Addr().String()
}

// deadAddress is one on which nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// expect runs one command line and compares all that it shows.
func expect(t *testing.T, status int, stdout string, args ...string) {
	t.Helper()
	var out, errs strings.Builder
	got := run(args, &out, &errs)
	if got != status {
		t.Errorf("octopiictl %s: exit status %d, want %d; stderr:\n%s", strings.Join(args, " "), got, status, errs.String())
	}
	if diff := cmp.Diff(strings.Fields(stdout), strings.Fields(out.String())); diff != "" {
		t.Errorf("octopiictl %s: wrong output (-want +got):\n%s", strings.Join(args, " "), diff)
	}
	if (status == 0) != (errs.Len() == 0) {
		t.Errorf("octopiictl %s: exit status %d with this on stderr:\n%s", strings.Join(args, " "), status, errs.String())
	}
}

func TestStatus(t *testing.T) {
	a, b := serve(t, &server{id: 0xa}), serve(t, &server{id: 0xb, learner: true})
	expect(t, 0, `
ENDPOINT ID NAME ROLE LEADER TERM INDEX APPLIED VERSION ERROR
`+a+`    a n1 leader  a    2    23    22      3.6.16
`+b+`    b n2 learner a    2    23    22      3.6.16`, "--endpoints", a+","+b, "status")
	expect(t, 0, `[ {
"endpoint": "`+b+`", "id": "b", "name": "n2", "role": "learner", "leader": "a",
"term": 2, "index": 23, "applied": 22, "version": "3.6.16"
} ]`, "--endpoints", b, "status", "-o", "json")
}

// One dead endpoint fails the command and does not hide the other's answer.
func TestStatusDeadEndpoint(t *testing.T) {
	a, dead := serve(t, &server{id: 0xa}), deadAddress(t)
	var out, errs strings.Builder
	if got := run([]string{"--endpoints", dead + "," + a, "--timeout", "200ms", "status"}, &out, &errs); got != exitFailed {
		t.Errorf("exit status %d, want %d", got, exitFailed)
	}
	if !strings.Contains(out.String(), "leader") || !strings.Contains(errs.String(), "1 of 2 endpoints did not answer") {
		t.Errorf("want the living member's row and a count of the dead, got:\n%s%s", out.String(), errs.String())
	}
}

// What a member says is wrong stands below the table, and fails the command.
func TestStatusShowsProblems(t *testing.T) {
	a := serve(t, &server{id: 0xa})
	b := serve(t, &server{id: 0xb, leaderless: true, problems: []string{"octopii: no leader", "octopii: member c lacks entries 1 to 2"}})
	var out, errs strings.Builder
	if got := run([]string{"--endpoints", a + "," + b, "status"}, &out, &errs); got != exitFailed {
		t.Errorf("exit status %d, want %d", got, exitFailed)
	}
	if want := b + ": no leader\n" + b + ": member c lacks entries 1 to 2\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("output:\n%s\nwant it to end with:\n%s", out.String(), want)
	}
	if want := "1 of 2 endpoints have problems"; !strings.Contains(errs.String(), want) {
		t.Errorf("stderr %q; want %q in it", errs.String(), want)
	}
	out.Reset()
	run([]string{"--endpoints", b, "status", "-o", "json"}, &out, &errs)
	if want := `"member c lacks entries 1 to 2"`; !strings.Contains(out.String(), want) {
		t.Errorf("JSON:\n%s\nwant %s in it", out.String(), want)
	}
}

// Without a leader a command says which endpoint said what.
func TestNoLeaderIsExplained(t *testing.T) {
	a, dead := serve(t, &server{id: 0xa, leaderless: true, problems: []string{"octopii: no leader", "octopii: no majority: b is missing"}}), deadAddress(t)
	for _, line := range []string{"member list", "member remove n2", "leader transfer n2", "leader failover"} {
		var out, errs strings.Builder
		got := run(append([]string{"--endpoints", a + "," + dead, "--timeout", "200ms"}, strings.Fields(line)...), &out, &errs)
		text := errs.String()
		if got != exitFailed || strings.Count(text, "\n") != 1 || strings.Contains(text, "context deadline exceeded") {
			t.Errorf("%s: exit status %d, and:\n%s", line, got, text)
		}
		for _, want := range []string{"no endpoint knows a leader", a + " says: no leader; no majority: b is missing", dead + " does not answer (", "connection refused"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s says %q, and not %q", line, text, want)
			}
		}
	}
}

func TestMemberList(t *testing.T) {
	a := serve(t, &server{id: 0xa})
	expect(t, 0, `
ID NAME PEERS     CLIENTS   LEARNER PRIORITY
a  n1   http://p1 http://c1 false   2
b  n2   http://p2 http://c2 true    0`, "--endpoints", a, "member", "list")
	expect(t, 0, `[ {
"id": "a", "name": "n1", "peerURLs": [ "http://p1" ], "clientURLs": [ "http://c1" ], "learner": false, "priority": 2
}, {
"id": "b", "name": "n2", "peerURLs": [ "http://p2" ], "clientURLs": [ "http://c2" ], "learner": true, "priority": 0
} ]`, "--endpoints", a, "member", "list", "-o", "json")
	expect(t, exitFailed, "", "--endpoints", deadAddress(t), "--timeout", "200ms", "member", "list")
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"member"},
		{"nonsense"},
		{"member", "nonsense"},
		{"status", "surplus"},
		{"status", "--nonsense"},
		{"status", "--output", "xml"},
		{"status", "--timeout", "0s"},
		{"status", "--endpoints", ""},
		{"leader"},
		{"leader", "transfer", "a", "b"},
		{"member", "add"},
		{"member", "add", ""},
		{"member", "add", "a:1", "b:1"},
		{"member", "add", "nonsense"},
		{"member", "add", ":2380"},
		{"member", "add", "a:0"},
		{"member", "add", "a:1", "--id", "xyz"},
		{"member", "add", "a:1", "--id", "0"},
		{"member", "add", "a:1", "--priority", "high"},
		{"member", "remove"},
		{"member", "remove", ""},
		{"member", "remove", "a", "b"},
		{"member", "promote"},
		{"member", "demote"},
		{"member", "replace", "a"},
		{"member", "replace", "a", "nonsense"},
		{"member", "update", "a"},
		{"member", "update", "a", "http://nonsense"},
		{"member", "priority", "a"},
		{"member", "priority", "a", "high"},
		{"member", "priority", "a", "2147483648"},
	} {
		expect(t, exitUsage, "", args...)
	}
}
