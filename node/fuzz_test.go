package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/wal"
)

// receiver is member 1 of cluster 7, run turn by turn on a disk in memory.
type receiver struct {
	t       *testing.T
	mem     *vfstest.Mem
	node    steppedNode
	handler transport.Handler
	later   []func()
}

// steppedBy is the host of a receiver.
type steppedBy struct{ r *receiver }

func (steppedBy) Aside(func())                 {}
func (h steppedBy) Go(f func())                { h.r.later = append(h.r.later, f) }
func (h steppedBy) Timer(func()) stepped.Timer { return neverFires{} }
func (h steppedBy) Now() time.Time             { return time.Unix(1_000_000_000, 0) }
func (h steppedBy) Decided(*stepped.Decision)  {}

type neverFires struct{}

func (neverFires) Reset(time.Duration) bool { return false }
func (neverFires) Stop() bool               { return false }

// nobody is a transport that leads nowhere.
type nobody struct{ r *receiver }

func (nobody) Address() string                                                    { return "n1" }
func (n nobody) Start(h transport.Handler) error                                  { n.r.handler = h; return nil }
func (nobody) SetPeer(uint64, string)                                             {}
func (nobody) RemovePeer(uint64)                                                  {}
func (nobody) Send(uint64, transport.Kind, transport.Message) bool                { return true }
func (nobody) Ask(string, transport.Kind, transport.Message, func([]byte, error)) {}
func (nobody) Close() error                                                       { return nil }
func (nobody) SendSnapshot(context.Context, uint64, transport.Message, io.WriterTo) error {
	return transport.ErrUnknownPeer
}
func (nobody) Call(context.Context, string, transport.Kind, transport.Message) ([]byte, error) {
	return nil, transport.ErrUnknownPeer
}
func (nobody) Probe(context.Context, string) (transport.Hello, error) {
	return transport.Hello{}, transport.ErrUnknownPeer
}

// anything is a state machine that takes what it is given.
type anything struct{}

func (anything) Durable() (uint64, bool)                 { return 0, false }
func (anything) Apply(entries []Entry) ([][]byte, error) { return nil, nil }
func (anything) Snapshot() (Snapshot, error)             { return noState{}, nil }
func (anything) Restore(_ uint64, r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

type noState struct{}

func (noState) WriteTo(io.Writer) (int64, error) { return 0, nil }
func (noState) Close() error                     { return nil }

// start starts the process.
func (r *receiver) start() error {
	n, err := startStepped(stepped.Config{FS: r.mem, Host: steppedBy{r}, Node: Config{
		ID: 1, Dir: "/d", StateMachine: anything{}, Transport: nobody{r}, SnapshotEntries: 4, TrailingEntries: 1,
		WAL: wal.New(wal.Options{FS: r.mem, SegmentBytes: 16 << 10, Rand: bytes.NewReader(make([]byte, 1<<10))}),
	}})
	if err == nil {
		r.node = n.(steppedNode)
		r.settle(0)
	}
	return err
}

// settle lets so many ticks pass, and everything happen that follows.
func (r *receiver) settle(ticks int) {
	for range 1000 {
		w := r.node.Work()
		if r.node.n.Err() != nil || ticks == 0 && len(r.later) == 0 && w == (stepped.Work{}) {
			return
		}
		if w.Loop || ticks > 0 {
			r.node.Loop(min(ticks, 1))
			ticks = max(0, ticks-1)
		}
		r.node.Append()
		r.node.Apply()
		later := r.later
		r.later = nil
		for _, f := range later {
			f()
		}
	}
	r.t.Fatal("the member goes on and on")
}

// The ways by which something of a peer reaches a member.
const (
	byRaft = iota
	byRequests
	byReplies
	byJoin
	bySnapshot // u16 length of the header, the header, the data
	byUnknown
	byTime // ticks
	bysEnd
)

// arrival is one thing that comes from a peer.
type arrival struct {
	by, from uint8
	payload  []byte
}

func arrivals(list ...arrival) (b []byte) {
	for _, a := range list {
		b = append(b, a.by, a.from)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(a.payload)))
		b = append(b, a.payload...)
	}
	return b
}

// arrive hands something to the member as its transport does: after Accept.
func (r *receiver) arrive(a arrival) {
	from := uint64(a.from)
	hello := transport.Hello{Cluster: 7, Node: from, Incarnation: from, Host: transport.Host{Address: "n"}}
	if a.by == byTime {
		r.settle(len(a.payload) % 32)
		return
	}
	if a.by == byJoin && a.from%2 == 0 {
		hello.Cluster = 0
	}
	if r.handler.Accept(hello) != nil {
		return
	}
	switch a.by {
	case byRaft, byRequests, byReplies:
		r.handler.HandleMessages(from, []transport.Inbound{{Kind: kindRaft + transport.Kind(a.by), Payload: a.payload}})
	case byUnknown:
		r.handler.HandleMessages(from, []transport.Inbound{{Kind: kindKnock + 1, Payload: a.payload}})
	case byJoin:
		answers := 0
		r.handler.(stepped.Answerer).Answer(hello, transport.Inbound{Kind: kindJoin, Payload: a.payload}, func(m transport.Message, err error) {
			if answers++; answers > 1 || (m == nil) == (err == nil) {
				r.t.Errorf("answer %d to a join request: %v, %v", answers, m, err)
			}
			var req octopiipb.JoinRequest
			if err == nil && (req.Unmarshal(a.payload) != nil || req.Member.ID != from) {
				r.t.Errorf("member %x was answered %v when it asked for %x", from, m, req.Member.ID)
			}
		})
	case bySnapshot:
		r.snapshot(from, a.payload)
	}
	r.settle(0)
}

// snapshot streams a snapshot. What is refused leaves the disk as it was.
func (r *receiver) snapshot(from uint64, payload []byte) {
	if len(payload) < 2 {
		return
	}
	n := min(int(binary.LittleEndian.Uint16(payload)), len(payload)-2)
	header, data := payload[2:2+n], payload[2+n:]
	before := r.mem.Names("/d/snap")
	// A stream that breaks off hands out what came.
	body := io.Reader(bytes.NewReader(r.framed(header, data)))
	if len(data) > 0 && data[len(data)-1] == 0xff {
		body = io.MultiReader(body, brokenOff{})
	}
	if r.handler.HandleSnapshot(from, header, body) != nil {
		if after := r.mem.Names("/d/snap"); !slices.Equal(before, after) {
			r.t.Errorf("a snapshot that was refused made %q of %q", after, before)
		}
		return
	}
	var s octopiipb.SnapshotAnnouncement
	if err := s.Unmarshal(header); err != nil {
		r.t.Fatalf("a header that cannot be read was taken: %v", err)
	}
	cs := s.Metadata.ConfState
	if named := slices.Concat(cs.Voters, cs.Learners, cs.VotersOutgoing); !slices.Contains(named, 1) {
		r.t.Errorf("a snapshot for %v was taken by member 1", named)
	}
	if after := r.mem.Names("/d/snap"); !slices.Equal(before, after) {
		file, err := raftstore.ReadSnapshotStream(bytes.NewReader(r.framed(header, data)))
		if err != nil {
			r.t.Fatalf("what is no snapshot was stored: %v", err)
		}
		if mine, got := r.node.n.cluster.Load(), file.Header.Membership.Cluster; got == 0 || mine != 0 && got != mine {
			r.t.Errorf("a snapshot of cluster %x was stored by a member of %x", got, mine)
		}
	}
}

// framed is the body of a snapshot: sections with right checksums where data begins with the
// length of a membership and that, and what it is where it does not.
func (r *receiver) framed(header, data []byte) []byte {
	var s octopiipb.SnapshotAnnouncement
	var h raftstore.SnapshotHeader
	if len(data) < 2 || s.Unmarshal(header) != nil {
		return data
	}
	n := int(binary.LittleEndian.Uint16(data))
	if n > len(data)-2 || h.Membership.Unmarshal(data[2:][:n]) != nil {
		return data
	}
	h.Metadata = s.Metadata
	var file bytes.Buffer
	if _, err := raftstore.WriteSnapshot(&file, h, bytes.NewReader(data[2+n:])); err != nil {
		r.t.Fatal(err)
	}
	return file.Bytes()
}

type brokenOff struct{}

func (brokenOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func encoded(t testing.TB, m interface{ Marshal() ([]byte, error) }) []byte {
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// announced is a snapshot of a membership, and how it is announced.
type announced struct {
	octopiipb.SnapshotAnnouncement
	membership octopiipb.Membership
}

// streamed is a snapshot as bySnapshot has it.
func streamed(t testing.TB, s announced, data string) []byte {
	var list []byte
	for _, m := range [][]byte{encoded(t, &s.SnapshotAnnouncement), encoded(t, &s.membership)} {
		list = append(binary.LittleEndian.AppendUint16(list, uint16(len(m))), m...)
	}
	return append(list, data...)
}

// clusterOf is a snapshot of members that begin with some voters.
func clusterOf(index, term uint64, voters []uint64, learners ...uint64) announced {
	ms := octopiipb.Membership{Cluster: 7, Index: 1}
	for _, id := range voters {
		ms.Members = append(ms.Members, octopiipb.Member{ID: id, Name: "m", Address: "n", Kind: octopiipb.Voter})
	}
	for _, id := range learners {
		ms.Members = append(ms.Members, octopiipb.Member{ID: id, Name: "l", Address: "n", Kind: octopiipb.Learner})
	}
	return announced{octopiipb.SnapshotAnnouncement{Term: term,
		Metadata: raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: raftpb.ConfState{Voters: voters, Learners: learners}}}, ms}
}

// FuzzPeer lets anything come from peers to a member that is uninitialized, a
// follower, or a leader: messages of every kind, requests to join, snapshots with
// their headers. It goes on, or stops because it was removed; and what it has on
// disk brings it back.
func FuzzPeer(f *testing.F) {
	join := func(m octopiipb.Member) []byte { return encoded(f, &octopiipb.JoinRequest{Member: m}) }
	request := func(rs ...octopiipb.Request) []byte { return encoded(f, &octopiipb.Requests{Term: 3, Requests: rs}) }
	forwarded := func(from, id uint64, data []byte) []byte {
		head := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64([]byte{3}, from), id)
		return append(head, core.FrameProposal(data)...)
	}
	message := func(m raftpb.Message) []byte { return encoded(f, &octopiipb.PeerMessage{Message: m}) }
	change := raftpb.ConfChangeV2{
		Changes: []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 5}},
		Context: encoded(f, &octopiipb.MembershipChange{Changes: []octopiipb.MemberChange{{Op: 1, Member: octopiipb.Member{ID: 5, Address: "n5"}}}}),
	}
	remove := raftpb.ConfChangeV2{
		Changes: []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeRemoveNode, NodeID: 1}},
		Context: encoded(f, &octopiipb.MembershipChange{Changes: []octopiipb.MemberChange{{Op: 3, Member: octopiipb.Member{ID: 1}}}}),
	}
	asked := change
	asked.Context = encoded(f, &octopiipb.MembershipChange{Changes: []octopiipb.MemberChange{{Op: 1, Member: octopiipb.Member{ID: 5, Address: "n5"}}}, Origin: 2, ID: 2})
	sound := clusterOf(9, 3, []uint64{1, 2, 3}, 4)
	none, noCluster, absent, witness, twice := sound, sound, clusterOf(9, 3, []uint64{2, 3}), clusterOf(9, 3, []uint64{1, 2, 3}), clusterOf(9, 3, []uint64{1, 2}, 2)
	none.membership.Members = nil
	noCluster.membership.Cluster = 0
	witness.membership.Members[1].Kind = octopiipb.Witness
	removed := clusterOf(9, 3, []uint64{1, 2, 3})
	removed.membership.Removed = []octopiipb.RemovedMember{{ID: 1}, {ID: 5}}
	late := clusterOf(1<<62, 3, []uint64{1, 2, 3})
	entries := []raftpb.Entry{
		{Index: 6, Term: 3, Data: core.FrameProposal([]byte("p"))},
		{Index: 7, Term: 3, Type: raftpb.EntryConfChangeV2, Data: encoded(f, &change)},
		{Index: 8, Term: 3},
	}
	appended := message(raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: 3, Index: 5, LogTerm: 2, Commit: 8, Entries: entries})
	entries[1].Data = encoded(f, &remove)
	leaving := message(raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: 3, Index: 5, LogTerm: 2, Commit: 8, Entries: entries})
	odd := func(e raftpb.Entry) []byte {
		e.Index, e.Term = 6, 3
		return message(raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: 3, Index: 5, LogTerm: 2, Commit: 6, Entries: []raftpb.Entry{e}})
	}
	heartbeat := message(raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 3})
	for state := range uint8(3) {
		for _, s := range []announced{sound, none, noCluster, absent, witness, twice, removed, late} {
			f.Add(state, arrivals(arrival{bySnapshot, 2, streamed(f, s, "data")}, arrival{byRaft, 2, heartbeat}))
		}
		f.Add(state, arrivals(arrival{bySnapshot, 2, streamed(f, sound, "broken off \xff")}, arrival{bySnapshot, 2, streamed(f, sound, "")}))
		f.Add(state, arrivals(arrival{bySnapshot, 3, []byte{9, 0, 0xff}}))
		f.Add(state, arrivals(arrival{byRaft, 2, appended}, arrival{byTime, 0, make([]byte, 30)}, arrival{byRaft, 2, heartbeat}))
		f.Add(state, arrivals(arrival{byRaft, 2, leaving}, arrival{byTime, 0, make([]byte, 5)}))
		f.Add(state, arrivals(arrival{byRaft, 2, odd(raftpb.Entry{Data: []byte{9}})}))
		f.Add(state, arrivals(arrival{byRaft, 2, odd(raftpb.Entry{Type: raftpb.EntryConfChangeV2, Data: []byte{0xff}})}))
		f.Add(state, arrivals(arrival{byRaft, 2, odd(raftpb.Entry{Type: raftpb.EntryConfChange, Data: []byte{0x10, 1}})}))
		f.Add(state, arrivals(arrival{byRaft, 3, appended}, arrival{byUnknown, 3, appended}, arrival{byRaft, 2, []byte{0xff}}))
		f.Add(state, arrivals(arrival{byJoin, 6, join(octopiipb.Member{ID: 6, Address: "n6", Name: "new", Incarnation: 6, Kind: octopiipb.Voter})},
			arrival{byJoin, 5, join(octopiipb.Member{ID: 6, Address: "n6", Kind: octopiipb.Voter})}, arrival{byJoin, 6, join(octopiipb.Member{ID: 6, Kind: octopiipb.Voter})}, arrival{byTime, 0, make([]byte, 9)}))
		f.Add(state, arrivals(arrival{byJoin, 2, join(octopiipb.Member{ID: 2, Address: "elsewhere", Priority: -1, Promote: true, Kind: octopiipb.Learner})}))
		f.Add(state, arrivals(arrival{byRequests, 2, request(
			octopiipb.Request{ID: 1, Proposal: forwarded(2, 1, []byte("p"))}, octopiipb.Request{ID: 2, ConfChange: encoded(f, &asked)},
			octopiipb.Request{ID: 7, Proposal: forwarded(3, 7, nil)}, octopiipb.Request{ID: 8, ConfChange: encoded(f, &change)},
			octopiipb.Request{ID: 1, Proposal: forwarded(2, 1, []byte("p"))}, octopiipb.Request{ID: 9, Proposal: forwarded(2, 9, nil)[:17]},
			octopiipb.Request{ID: 3, TransferTo: 2}, octopiipb.Request{ID: 4}, octopiipb.Request{ID: 5, ConfChange: []byte{0xff}},
			octopiipb.Request{ID: 6, Proposal: []byte{9}})}, arrival{byTime, 0, make([]byte, 20)}))
		f.Add(state, arrivals(arrival{byReplies, 2, encoded(f, &octopiipb.Replies{Replies: []octopiipb.Reply{{ID: 1, Index: 9}, {ID: 2, Code: 99}}})}))
	}
	f.Fuzz(func(t *testing.T, state uint8, list []byte) {
		r := &receiver{t: t, mem: vfstest.NewMem()}
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		switch state % 3 {
		case 1: // follower
			r.arrive(arrival{bySnapshot, 2, streamed(t, clusterOf(5, 2, []uint64{1, 2, 3}, 4), "state")})
		case 2: // leader
			r.arrive(arrival{bySnapshot, 2, streamed(t, clusterOf(5, 2, []uint64{1}, 2, 3), "state")})
			r.settle(30)
		}
		for n := 0; len(list) >= 4 && n < 20 && r.node.n.Err() == nil; n++ {
			size := min(int(binary.LittleEndian.Uint16(list[2:])), len(list)-4)
			r.arrive(arrival{list[0] % bysEnd, list[1], list[4:][:size]})
			list = list[4+size:]
		}
		r.settle(25)
		st, err := r.node.n.Status(), r.node.n.Err()
		if err != nil && !errors.Is(err, ErrRemoved) {
			t.Errorf("the member stopped: %v", err)
		}
		if st.Applied > st.Commit || st.Commit > st.LastIndex {
			t.Errorf("applied %d, commit %d, last %d are not in order", st.Applied, st.Commit, st.LastIndex)
		}
		if err := r.node.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		before := r.node.n
		r.later = nil
		if err := r.start(); err != nil {
			t.Fatalf("it does not start again: %v", err)
		}
		if a, b := before.cluster.Load(), r.node.n.cluster.Load(); a != b {
			t.Errorf("it was in cluster %x, and comes back in cluster %x", a, b)
		}
		if now := r.node.n.Status(); now.LastIndex < st.LastIndex || now.Term < st.Term {
			t.Errorf("it had the term %d and entries up to %d, and comes back with %d and %d", st.Term, st.LastIndex, now.Term, now.LastIndex)
		}
		if err := r.node.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	})
}
