package main

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/internal/etcdapi"
	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/proto/adminpb"
	"github.com/octopii/octopii/transport/tcp"
)

// Every command asks for what its words say.
func TestChangeRequests(t *testing.T) {
	var got *adminpb.ChangeMembershipRequest
	a := serve(t, &server{id: 0xa, change: func(r *adminpb.ChangeMembershipRequest) (*adminpb.ChangeMembershipResponse, error) {
		got = r
		return &adminpb.ChangeMembershipResponse{Before: two(), After: two(), Member: r.Member.ID}, nil
	}})
	type m = adminpb.MemberInfo
	for line, want := range map[string]*adminpb.ChangeMembershipRequest{
		"add h:1": {Verb: "add-voter", Member: &m{Address: "h:1"}},
		"add http://h:1 --learner --name n --id 0x1f --priority=-3": {Verb: "add-learner", Member: &m{ID: 0x1f, Name: "n", Address: "h:1", Priority: -3}},
		"remove b":                    {Verb: "remove", Member: &m{ID: 0xb}},
		"remove n2 --dry-run":         {Verb: "remove", Member: &m{ID: 0xb}, DryRun: true},
		"promote 0xb":                 {Verb: "promote", Member: &m{ID: 0xb}},
		"demote n1":                   {Verb: "demote", Member: &m{ID: 0xa}},
		"replace n1 [::1]:2 --name x": {Verb: "replace", Member: &m{Name: "x", Address: "[::1]:2"}, Old: 0xa},
		"update n2 h:3":               {Verb: "update-address", Member: &m{ID: 0xb, Address: "h:3"}},
		"priority a 7":                {Verb: "set-priority", Member: &m{ID: 0xa, Priority: 7}},
		"priority a -- -7":            {Verb: "set-priority", Member: &m{ID: 0xa, Priority: -7}},
	} {
		var out, errs strings.Builder
		if code := run(append([]string{"--endpoints", a, "member"}, strings.Fields(line)...), &out, &errs); code != 0 {
			t.Errorf("member %s: exit status %d: %s", line, code, errs.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("member %s asks for something else (-want +got):\n%s", line, diff)
		}
	}
}

func TestChangeOutput(t *testing.T) {
	a := serve(t, &server{id: 0xa, change: func(r *adminpb.ChangeMembershipRequest) (*adminpb.ChangeMembershipResponse, error) {
		after := two()
		after.Index, after.Voters, after.Quorum, after.Members[1].Learner = 8, 2, 2, false
		return &adminpb.ChangeMembershipResponse{Before: two(), After: after, Member: r.Member.ID}, nil
	}})
	expect(t, 0, `
WHEN    VOTERS  QUORUM  MAY-FAIL  VOTING  LEARNING
before  1       1       0         n1      n2
after   2       2       0         n1,n2`, "--endpoints", a, "member", "promote", "n2")
	expect(t, 0, `{
"verb": "promote", "member": "b", "dryRun": true,
"before": { "index": 5, "voters": 1, "quorum": 1, "mayFail": 0, "joint": false, "members": [
 { "id": "a", "name": "n1", "address": "h1:1", "learner": false, "priority": 2 },
 { "id": "b", "name": "n2", "address": "h2:1", "learner": true, "priority": 0 } ] },
"after": { "index": 8, "voters": 2, "quorum": 2, "mayFail": 0, "joint": false, "members": [
 { "id": "a", "name": "n1", "address": "h1:1", "learner": false, "priority": 2 },
 { "id": "b", "name": "n2", "address": "h2:1", "learner": false, "priority": 0 } ] }
}`, "--endpoints", a, "member", "promote", "n2", "--dry-run", "-o", "json")
}

// What would be refused is shown, with the reason, and fails.
func TestChangeRefused(t *testing.T) {
	a := serve(t, &server{id: 0xa, change: func(r *adminpb.ChangeMembershipRequest) (*adminpb.ChangeMembershipResponse, error) {
		switch {
		case r.DryRun:
			return &adminpb.ChangeMembershipResponse{Before: two(), Member: r.Member.ID, Refused: "learner b has nothing"}, nil
		case r.Verb == "demote":
			return nil, status.Error(codes.InvalidArgument, "that cannot be meant")
		}
		return nil, status.Error(codes.FailedPrecondition, "learner b has nothing")
	}})
	expect(t, exitFailed, `
WHEN    VOTERS  QUORUM  MAY-FAIL  VOTING  LEARNING
before  1       1       0         n1      n2`, "--endpoints", a, "member", "promote", "n2", "--dry-run")
	expect(t, exitFailed, `{
"verb": "promote", "member": "b", "dryRun": true,
"before": { "index": 5, "voters": 1, "quorum": 1, "mayFail": 0, "joint": false, "members": [
 { "id": "a", "name": "n1", "address": "h1:1", "learner": false, "priority": 2 },
 { "id": "b", "name": "n2", "address": "h2:1", "learner": true, "priority": 0 } ] },
"refused": "learner b has nothing"
}`, "--endpoints", a, "member", "promote", "n2", "--dry-run", "-o", "json")
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"promote n2 --dry-run": {exitFailed, "octopiictl: member promote on " + a + ": it would be refused: learner b has nothing\n"},
		"promote n2":           {exitFailed, "octopiictl: member promote on " + a + ": learner b has nothing\n"},
		"demote n1":            {exitUsage, "octopiictl: member demote: that cannot be meant\nrun octopiictl --help\n"},
		"remove n9":            {exitFailed, "octopiictl: member remove on " + a + `: there is no member "n9", neither by ID nor by name; octopiictl member list has them` + "\n"},
		"remove c":             {exitFailed, "octopiictl: member remove on " + a + `: there is no member "c", neither by ID nor by name; octopiictl member list has them` + "\n"},
		"replace 0 h:1":        {exitFailed, "octopiictl: member replace on " + a + `: there is no member "0", neither by ID nor by name; octopiictl member list has them` + "\n"},
	} {
		var out, errs strings.Builder
		if code := run(append([]string{"--endpoints", a, "member"}, strings.Fields(line)...), &out, &errs); code != want.code || errs.String() != want.says {
			t.Errorf("member %s: exit status %d with %q; want %d with %q", line, code, errs.String(), want.code, want.says)
		}
	}
	expect(t, exitFailed, "", "--endpoints", deadAddress(t), "--timeout", "200ms", "member", "remove", "n1")
}

// An endpoint that is not part of a cluster yet, or does not listen, leaves a change to the one
// that answers, wherever that stands in the list.
func TestChangeAsksWhoServes(t *testing.T) {
	a := serve(t, &server{id: 0xa, change: func(*adminpb.ChangeMembershipRequest) (*adminpb.ChangeMembershipResponse, error) {
		return &adminpb.ChangeMembershipResponse{Before: two(), After: two()}, nil
	}})
	for range 5 { // clients take turns among endpoints
		for _, endpoints := range []string{uninitialized(t) + "," + a, a + "," + uninitialized(t), deadAddress(t) + "," + uninitialized(t) + "," + a} {
			var out, errs strings.Builder
			if got := run([]string{"--endpoints", endpoints, "member", "demote", "n1"}, &out, &errs); got != 0 {
				t.Errorf("%s: exit status %d: %s", endpoints, got, errs.String())
			}
		}
	}
	var out, errs strings.Builder
	endpoints := uninitialized(t) + "," + uninitialized(t)
	if got := run([]string{"--endpoints", endpoints, "member", "demote", "n1"}, &out, &errs); got != exitFailed {
		t.Errorf("no endpoint is a member: exit status %d, want %d", got, exitFailed)
	}
}

// A member that loses the answer, because the change removed it, leaves it to the others.
func TestLostAnswerIsAskedElsewhere(t *testing.T) {
	lost := status.Error(codes.Unavailable, "octopii: the member that was asked was removed")
	a := serve(t, &server{
		id:       0xa,
		change:   func(*adminpb.ChangeMembershipRequest) (*adminpb.ChangeMembershipResponse, error) { return nil, lost },
		transfer: func(uint64) (*adminpb.MemberInfo, error) { return nil, lost },
	})
	for line, code := range map[string]int{
		// As the membership of every server is: n1 votes at h1:1 with priority 2, n2 learns.
		"member demote n2":           0,
		"member promote n1":          0,
		"member priority n1 2":       0,
		"member add h1:1":            0,
		"member add h2:1 --learner":  0,
		"member update n2 h2:1":      0,
		"leader transfer n1":         0,
		"member add h2:1":            exitFailed,
		"member promote n2":          exitFailed,
		"member demote n1":           exitFailed,
		"member remove n2":           exitFailed,
		"member replace n2 h1:1":     exitFailed,
		"member update n2 h3:1":      exitFailed,
		"member priority n1 3":       exitFailed,
		"member remove n2 --dry-run": exitFailed,
		"member demote n2 --dry-run": exitFailed,
		"leader transfer n2":         exitFailed,
	} {
		var out, errs strings.Builder
		if got := run(append([]string{"--endpoints", a}, strings.Fields(line)...), &out, &errs); got != code {
			t.Errorf("%s: exit status %d, want %d: %s%s", line, got, code, out.String(), errs.String())
		}
	}
}

// The only endpoint may be the member that is removed: the others are known by then.
func TestLostAnswerWithoutAnotherEndpoint(t *testing.T) {
	for other, want := range map[string]int{serve(t, &server{id: 0xb}): 0, deadAddress(t): exitFailed} {
		a := &server{id: 0xa, other: "http://" + other}
		a.change = func(*adminpb.ChangeMembershipRequest) (*adminpb.ChangeMembershipResponse, error) {
			a.removed.Store(true)
			return nil, status.Error(codes.Unavailable, "octopii: the member that was asked was removed")
		}
		var out, errs strings.Builder
		if got := run([]string{"--endpoints", serve(t, a), "member", "demote", "n2"}, &out, &errs); got != want {
			t.Errorf("the other one is at %s: exit status %d, want %d: %s", other, got, want, errs.String())
		}
	}
}

// An ID comes before a name, and a name must be of one member.
func TestFindMember(t *testing.T) {
	ms := &adminpb.MembershipInfo{Members: []*adminpb.MemberInfo{
		{ID: 0xa, Name: "b"}, {ID: 0xb, Name: "twin"}, {ID: 0xc, Name: "twin"}, {ID: 0xd}, {ID: 0xe, Name: "e2"},
	}}
	for word, want := range map[string]uint64{"a": 0xa, "b": 0xb, "0xc": 0xc, "D": 0xd, "e2": 0xe} {
		if got, err := findMember(ms, word); err != nil || got != want {
			t.Errorf("findMember(%q) = %x, %v; want %x", word, got, err, want)
		}
	}
	for word, says := range map[string]string{"twin": "b and c", "f": "no member", "0": "no member", "-1": "no member", "11112222333344445": "no member"} {
		if got, err := findMember(ms, word); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("findMember(%q) = %x, %v; want an error with %q", word, got, err, says)
		}
	}
}

func TestLeaderTransfer(t *testing.T) {
	a := serve(t, &server{id: 0xa, transfer: func(to uint64) (*adminpb.MemberInfo, error) {
		if to == 0xb {
			return nil, status.Error(codes.FailedPrecondition, "it learns")
		}
		return &adminpb.MemberInfo{ID: 0xa, Name: "n1"}, nil
	}})
	expect(t, 0, "LEADER NAME\na n1", "--endpoints", a, "leader", "transfer")
	expect(t, 0, `{ "id": "a", "name": "n1" }`, "--endpoints", a, "leader", "transfer", "n1", "-o", "json")
	expect(t, exitFailed, "", "--endpoints", a, "leader", "transfer", "n2")
	expect(t, exitFailed, "", "--endpoints", a, "leader", "transfer", "n9")
}

// startReal starts a member, of which the first founds a cluster and others wait to be
// added, and returns where its clients and its peers reach it.
func startReal(t *testing.T, id uint64) (n *node.Node, clients, peers string) {
	t.Helper()
	store, err := kv.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := tcp.New(tcp.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	n, err = node.Start(node.Config{
		ID: id, Name: "n1", Bootstrap: id == 1,
		Dir: t.TempDir(), StateMachine: store, Transport: tr, TickInterval: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g, served := etcdapi.NewServer(etcdapi.Config{Node: n, Store: store}), make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := errors.Join(<-served, n.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return n, l.Addr().String(), tr.Address()
}

// An operator's day with members that are real.
func TestOperate(t *testing.T) {
	n, clients, _ := startReal(t, 1)
	_, _, second := startReal(t, 2)
	third, _, thirdPeers := startReal(t, 3)
	for _, step := range []struct {
		line  string
		code  int
		shows string // in the output, spaces aside
		index bool   // the membership changes
	}{
		{"member add " + second + " --name n2 --dry-run", 0, "after 2 2 0 n1,n2", false},
		{"member add " + second + " --name n2", 0, "after 2 2 0 n1,n2", true},
		{"member add " + thirdPeers + " --name n3 --learner", 0, "after 2 2 0 n1,n2 n3", true},
		{"member remove n2 --dry-run", 0, "before 2 2 0 n1,n2 n3 after 1 1 0 n1 n3", false},
		{"member replace n2 " + thirdPeers + " --dry-run", 0, "after 2 2 0 n1,n3", false},
		{"member replace n3 " + thirdPeers + " --dry-run", 1, "before 2 2 0 n1,n2 n3", false},
		{"member replace n2 " + thirdPeers, 0, "after 2 2 0 n1,n3", true},
		{"member update n3 " + thirdPeers + " --dry-run", 0, "after 2 2 0 n1,n3", false},
		{"member priority n3 5", 0, "after 2 2 0 n1,n3", true},
		{"leader transfer n3", 0, "LEADER NAME", false},
		{"member demote n3", 0, "after 1 1 0 n1 n3", true},
		{"member demote n1 --dry-run", 1, "before 1 1 0 n1 n3", false},
		{"member remove n1", 1, "", false},
		{"member remove n3", 0, "after 1 1 0 n1", true},
		{"leader transfer", 1, "", false},
		{"leader failover", 0, "FAILOVER fast", false},
		{"leader failover timeout", 0, "FAILOVER timeout", true},
		{"leader failover -o json", 0, `"failover": "timeout"`, false},
		{"leader failover fast", 0, "FAILOVER fast", true},
		{"leader failover slow", 2, "", false},
	} {
		before := n.Status().Membership.Index
		var out, errs strings.Builder
		code := run(append([]string{"--endpoints", clients, "--timeout", "30s"}, strings.Fields(step.line)...), &out, &errs)
		shown := strings.Join(strings.Fields(out.String()), " ")
		if code != step.code || !strings.Contains(shown, step.shows) {
			t.Errorf("%s: exit status %d, want %d\n%s%s", step.line, code, step.code, out.String(), errs.String())
		}
		if changed := n.Status().Membership.Index != before; changed != step.index {
			t.Errorf("%s: the membership changed: %v; want %v", step.line, changed, step.index)
		}
	}
	<-third.Done() // it was told that it was removed
}

// A change that names an address where nobody listens is made, with a warning.
func TestNobodyListensThere(t *testing.T) {
	_, clients, _ := startReal(t, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dead, alive := deadAddress(t), l.Addr().String()
	for _, step := range []struct{ line, warns string }{
		{"member add " + dead + " --learner --id 1f --dry-run", dead},
		{"member add " + dead + " --learner --id 1f", dead},
		{"member update 1f " + alive, ""},
		{"member update 1f " + dead, dead},
		{"member priority 1f 3", ""},
	} {
		var out, errs strings.Builder
		code := run(append([]string{"--endpoints", clients, "--timeout", "30s"}, strings.Fields(step.line)...), &out, &errs)
		want := ""
		if step.warns != "" {
			want = "octopiictl: warning: nobody answers at " + step.warns
		}
		if text := errs.String(); code != 0 || !strings.HasPrefix(text, want) || (want == "") != (text == "") {
			t.Errorf("%s: exit status %d with %q; want 0 with %q", step.line, code, text, want)
		}
	}
}
