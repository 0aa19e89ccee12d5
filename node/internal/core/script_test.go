package core

import (
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	chacha "math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// TestScripts runs the stories in testdata/core: comment, command, ----, what
// the core wants done. After a deliberate change rewrite them with
// go test ./node/internal/core -run TestScripts -rewrite, and read the diff.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, filepath.Join("..", "..", "..", "testdata", "core"), func(t *testing.T, path string) {
		// raft draws its election jitter from here.
		defer func(r io.Reader) { rand.Reader = r }(rand.Reader)
		rand.Reader = chacha.NewChaCha8([32]byte{})
		s := newScript()
		datadriven.RunTest(t, path, s.run)
		s.replay(t)
	})
}

// script is a handful of cores, and what is on its way between them.
type script struct {
	members map[uint64]*scripted
	// records are of all members that there were.
	records []*recording
	out     strings.Builder
}

func newScript() *script { return &script{members: map[uint64]*scripted{}} }

// replay steps fresh cores with all that the members got, and compares what they did.
func (s *script) replay(t *testing.T) {
	t.Helper()
	for _, r := range s.records {
		r.replay(t)
	}
}

// scripted is one core with a disk and a state machine that wait to be told.
type scripted struct {
	id uint64
	// newest is up to which format level its program reads; 0: 1.
	newest  uint32
	core    *Core // nil while uninitialized
	record  *recording
	disk    *memoryDisk
	inbox   []octopiipb.PeerMessage
	remote  []RemoteRequests
	replies []RemoteReplies
	appends []*Append
	applies []*Apply
	// full: its disk is. stuck: what is to be appended waits for space.
	full, stuck bool
	// room is that of its state machine, and grows the answers to what it was asked.
	room  Room
	grows []bool
	// hangs: nothing becomes durable by itself.
	hangs bool
	// snapshots are the labels of what this member received as a stream.
	snapshots map[uint64]Label
}

// call is a caller that a script names.
type call struct {
	Call
	name string
}

// memoryDisk is a Storage that forgets nothing.
type memoryDisk struct {
	*raft.MemoryStorage
	handed, snap Label
	wanted       bool
}

func (d *memoryDisk) Handed(index, term uint64, cs raftpb.ConfState) {
	d.handed = Label{Index: index, Term: term, ConfState: cs}
}

func (d *memoryDisk) Snapshot() (raftpb.Snapshot, error) {
	if d.snap.ConfState.Equivalent(d.handed.ConfState) != nil {
		d.wanted = true
		return raftpb.Snapshot{}, raft.ErrSnapshotTemporarilyUnavailable
	}
	return raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: d.snap.Index, Term: d.snap.Term, ConfState: d.snap.ConfState}}, nil
}

func newDisk(start Label, hs raftpb.HardState) *memoryDisk {
	d := &memoryDisk{MemoryStorage: raft.NewMemoryStorage(), handed: start, snap: start}
	_ = d.ApplySnapshot(raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: start.Index, Term: start.Term, ConfState: start.ConfState}})
	_ = d.SetHardState(hs)
	return d
}

func (s *script) printf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	var id uint64
	d.MaybeScanArgs(t, "id", &id)
	m := s.members[id]
	switch d.Cmd {
	case "found":
		start := Label{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{id}},
			Membership: &octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{{ID: id, Address: fmt.Sprintf("addr%d", id), Kind: octopiipb.Voter}}}}
		s.members[id] = &scripted{id: id, disk: newDisk(start, raftpb.HardState{Term: 1, Commit: 1}), snapshots: map[uint64]Label{}}
		d.MaybeScanArgs(t, "reads", &s.members[id].newest)
		s.start(t, s.members[id], start, start.Index)
	case "empty":
		s.members[id] = &scripted{id: id, snapshots: map[uint64]Label{}}
		d.MaybeScanArgs(t, "reads", &s.members[id].newest)
		s.printf("%d has an empty disk and no RawNode", id)
	case "propose":
		var data, name string
		d.ScanArgs(t, "data", &data)
		d.MaybeScanArgs(t, "as", &name)
		if name == "" {
			name = data
		}
		s.step(m, &Input{Requests: []Request{NewProposal([]byte(data), &call{name: name})}})
	case "barrier":
		s.step(m, &Input{Requests: []Request{{Kind: Propose, Data: Barrier(), Waiter: &call{name: "barrier"}}}})
	case "set-failover":
		on := uint64(0)
		if d.HasArg("by-timeout") {
			on = 1
		}
		s.step(m, &Input{Requests: []Request{NewSettingChange(FailoverByTimeout, on, &call{name: "setting"})}})
	case "read":
		var name string
		d.ScanArgs(t, "as", &name)
		s.step(m, &Input{Requests: []Request{{Kind: Read, Waiter: &call{name: name}}}})
	case "add-learner":
		c := Change{Op: AddLearner}
		d.ScanArgs(t, "member", &c.Member.ID)
		c.Member.Address = fmt.Sprintf("addr%d", c.Member.ID)
		c.Member.Promote = d.HasArg("promote")
		d.MaybeScanArgs(t, "priority", &c.Member.Priority)
		s.change(m, c)
	case "remove":
		c := Change{Op: Remove}
		d.ScanArgs(t, "member", &c.Member.ID)
		s.change(m, c)
	case "change":
		s.step(m, &Input{Requests: []Request{{Kind: ChangeMembership, Changes: parseChanges(t, d), DryRun: d.HasArg("dry-run"), Waiter: &call{name: "change"}}}})
	case "heard":
		// What came from a peer is told by what the script delivers; of one that the
		// script does not have, this says that it was heard, or where.
		p := PeerUp{Incarnation: 9}
		d.ScanArgs(t, "peer", &p.ID)
		d.MaybeScanArgs(t, "at", &p.Address)
		p.Formats.Oldest = 1
		d.MaybeScanArgs(t, "reads", &p.Formats.Newest)
		s.step(m, &Input{PeersUp: []PeerUp{p}})
	case "transfer":
		var to uint64
		d.ScanArgs(t, "to", &to)
		s.step(m, &Input{Requests: []Request{{Kind: Transfer, To: to, Waiter: &call{name: "transfer"}}}})
	case "raise":
		var to uint64
		d.ScanArgs(t, "to", &to)
		s.step(m, &Input{Requests: []Request{NewSettingChange(FormatLevel, to, &call{name: "raise"})}})
	case "tick":
		n := 1
		d.MaybeScanArgs(t, "n", &n)
		s.step(m, &Input{Ticks: n})
		if d.HasArg("quiet") {
			s.out.Reset()
		}
	case "gone":
		var peer uint64
		d.ScanArgs(t, "peer", &peer)
		s.step(m, &Input{PeersGone: []uint64{peer}})
	case "campaign":
		s.step(m, &Input{Campaign: true})
	case "kill":
		delete(s.members, id)
		s.printf("%d is dead", id)
	case "receive":
		s.receive(t, m, s.parseMessage(t, d, id))
	case "deliver":
		s.deliver(t, m)
	case "drop":
		s.printf("%d messages for %d are lost", len(m.inbox), id)
		m.inbox = nil
	case "lose-requests":
		s.printf("%d messages with requests for %d are lost", len(m.remote), id)
		m.remote = nil
	case "lose-replies":
		s.printf("%d messages with replies for %d are lost", len(m.replies), id)
		m.replies = nil
	case "double-requests":
		m.remote = append(m.remote, m.remote...)
	case "peer-down":
		var peer uint64
		d.ScanArgs(t, "peer", &peer)
		s.step(m, &Input{PeersDown: []uint64{peer}})
	case "disk-full", "disk-free":
		m.full, m.stuck = d.Cmd == "disk-full", d.HasArg("stuck")
	case "disk-hangs", "disk-answers":
		m.hangs = d.Cmd == "disk-hangs"
	case "durable":
		s.durable(m)
	case "apply":
		s.apply(m)
	case "snapshot":
		m.disk.snap = m.core.handed
		s.printf("%d took a snapshot at %d, voters %v, learners %v", id, m.disk.snap.Index, m.disk.snap.ConfState.Voters, m.disk.snap.ConfState.Learners)
	case "compact":
		_ = m.disk.Compact(m.disk.snap.Index)
		first, _ := m.disk.FirstIndex()
		s.printf("the log of %d begins at %d", id, first)
	case "stabilize":
		s.stabilize(t, d.HasArg("quiet"))
	case "status":
		s.status(m)
	default:
		t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
	if s.out.Len() == 0 {
		return "nothing\n"
	}
	return s.out.String()
}

func (s *script) start(t *testing.T, m *scripted, start Label, applied uint64) {
	r, err := record(Config{ID: m.id, Start: start, Founded: m.core == nil, Applied: applied, Storage: m.disk, ElectionTicks: 10, HeartbeatTicks: 1,
		MessageBytesMax: 1 << 20, InflightMessagesMax: 16, PromoteLagMax: 2, PromoteStableTicks: 2, JoinTimeoutTicks: 100, StallTicks: 20,
		ProposalBytesMax: 1 << 20, WaitingBytesMax: 1 << 26, UncommittedBytesMax: 1 << 28, UnappliedBytesMax: 16 << 20, ReadSeed: m.id, Logger: quiet{},
		Formats: Formats{1, max(1, m.newest)}})
	if err != nil {
		t.Fatal(err)
	}
	m.core, m.record = r.core, r
	s.records = append(s.records, r)
	s.step(m, &Input{})
}

func (s *script) change(m *scripted, c Change) {
	s.step(m, &Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{c}, Waiter: &call{name: "change"}}}})
}

// step gives one input to a core, and whatever follows from it by itself.
func (s *script) step(m *scripted, in *Input) {
	for {
		in.NoSpace, in.Stuck, in.Room, in.Grows = m.full, m.stuck, m.room, m.grows
		m.grows = nil
		s.effects(m, m.record.step(in))
		if !m.core.More() {
			break
		}
		in = &Input{}
	}
}

func (s *script) effects(m *scripted, e *Effects) {
	if e.LeaderChanged {
		st := m.core.Status()
		s.printf("%d: term %d, leader %d", m.id, st.Term, st.Leader)
	}
	for _, id := range e.GivenUp {
		s.printf("%d: gives up %d", m.id, id)
	}
	if e.CampaignSoon > 0 {
		s.printf("%d: wants to campaign soon, for the %d. time", m.id, e.CampaignSoon)
	}
	if e.Membership != nil {
		s.printf("%d: members %s", m.id, describe(e.Membership))
	}
	if e.Unreadable != nil {
		s.printf("%d: stops: %v", m.id, e.Unreadable)
	}
	if a := e.Append; a != nil {
		m.appends = append(m.appends, a)
		s.printf("%d: append %s", m.id, describeAppend(a))
	}
	for _, msg := range append(e.Messages, bare(e.Snapshots)...) {
		s.printf("%d: send %s", m.id, describeMessage(msg))
		if to := s.members[msg.To]; to != nil {
			if msg.Type == raftpb.MsgSnap {
				to.snapshots[msg.Snapshot.Metadata.Index] = m.labelOf(msg.Snapshot.Metadata)
			}
			to.inbox = append(to.inbox, msg)
		}
	}
	for _, f := range e.Forwards {
		s.printf("%d: forward %d requests to %d for term %d", m.id, len(f.Requests), f.To, f.Term)
		to := s.members[f.To]
		if to == nil {
			continue
		}
		to.remote = append(to.remote, RemoteRequests{From: m.id, Term: f.Term, Requests: f.Requests})
	}
	for _, r := range e.Replies {
		for _, p := range r.Replies {
			s.printf("%d: reply to %d: %s", m.id, r.To, describeReply(p))
		}
		to := s.members[r.To]
		if to == nil {
			continue
		}
		to.replies = append(to.replies, RemoteReplies{From: m.id, Replies: r.Replies})
	}
	if a := e.Apply; a != nil {
		m.applies = append(m.applies, a)
		s.printf("%d: apply up to %d", m.id, a.Label.Index)
	}
	for _, o := range e.Outcomes {
		s.printf("%d: %s: %s", m.id, o.Waiter.(*call).name, describeOutcome(o))
	}
	for _, command := range e.Unsorted {
		m.grows = append(m.grows, command[0] == '+')
	}
	for _, p := range e.Suspects {
		s.printf("%d: refused a message of %d: %s", m.id, p.ID, p.Reason)
	}
}

// labelOf finds the membership that a snapshot of this member has.
func (m *scripted) labelOf(meta raftpb.SnapshotMetadata) Label {
	l, err := m.core.LabelAt(meta.Index)
	if err != nil {
		l = m.core.labels[0]
	}
	return Label{Index: meta.Index, Term: meta.Term, ConfState: meta.ConfState, Membership: l.Membership}
}

func (s *script) deliver(t *testing.T, m *scripted) {
	inbox, remote, replies := m.inbox, m.remote, m.replies
	m.inbox, m.remote, m.replies = nil, nil, nil
	for _, msg := range inbox {
		s.receive(t, m, msg)
	}
	if len(remote)+len(replies) > 0 {
		s.step(m, &Input{Remote: remote, Replies: replies})
	}
}

// receive hands one message to a member, as its shell would.
func (s *script) receive(t *testing.T, m *scripted, msg octopiipb.PeerMessage) {
	if m.core != nil {
		s.step(m, &Input{Messages: []octopiipb.PeerMessage{msg}})
		return
	}
	if IsSnapshotFor(&msg.Message, m.id) {
		start := m.snapshots[msg.Snapshot.Metadata.Index]
		s.printf("%d: brought to life by the snapshot at %d", m.id, start.Index)
		m.disk = newDisk(start, raftpb.HardState{Term: msg.Term, Commit: start.Index})
		m.applies = append(m.applies, &Apply{Label: start}) // to be restored
		s.start(t, m, start, 0)
		s.step(m, &Input{Messages: []octopiipb.PeerMessage{msg}})
		return
	}
	reply, ok := AnswerUninitialized(&msg.Message, m.id)
	if !ok {
		s.printf("%d: silent on %s", m.id, describeMessage(msg))
		return
	}
	answer := octopiipb.PeerMessage{Message: reply}
	s.printf("%d: send %s", m.id, describeMessage(answer))
	if to := s.members[reply.To]; to != nil {
		to.inbox = append(to.inbox, answer)
	}
}

func (s *script) durable(m *scripted) {
	done := m.appends
	m.appends = nil
	for _, a := range done {
		if a.Snapshot != nil {
			a.Installed = m.snapshots[a.Snapshot.Metadata.Index]
			_ = m.disk.ApplySnapshot(*a.Snapshot)
			m.disk.snap = a.Installed
			m.applies = append(m.applies, &Apply{Label: a.Installed})
		}
		_ = m.disk.Append(a.Entries)
		if !raft.IsEmptyHardState(a.HardState) {
			_ = m.disk.SetHardState(a.HardState)
		}
	}
	s.step(m, &Input{Appended: done})
}

func (s *script) apply(m *scripted) {
	done := m.applies
	m.applies = nil
	for _, a := range done {
		for _, e := range a.Entries {
			s.printf("%d: applied %d %q", m.id, e.Index, e.Data)
			if e.Waiter != nil {
				s.printf("%d: %s: committed at %d", m.id, e.Waiter.(*call).name, e.Index)
			}
		}
	}
	s.step(m, &Input{Applied: done})
}

// stabilize lets disks, state machines and the network work until nothing is
// left to do.
func (s *script) stabilize(t *testing.T, quiet bool) {
	for busy := true; busy; {
		busy = false
		for _, id := range slices.Sorted(maps.Keys(s.members)) {
			m := s.members[id]
			if len(m.inbox)+len(m.remote)+len(m.replies) > 0 {
				busy = true
				s.deliver(t, m)
			}
			if len(m.appends) > 0 && !m.hangs && !m.stuck {
				busy = true
				s.durable(m)
			}
			if len(m.applies) > 0 {
				busy = true
				s.apply(m)
			}
			if m.disk != nil && m.disk.wanted {
				m.disk.wanted = false
				m.disk.snap = m.core.handed
				s.printf("%d: takes the snapshot that was missing, at %d", m.id, m.disk.snap.Index)
			}
		}
	}
	if quiet {
		s.out.Reset()
	}
}

func (s *script) status(m *scripted) {
	st := m.core.Status()
	s.printf("%d: %s, term %d, leader %d, commit %d, applied %d, last %d", m.id,
		strings.TrimPrefix(st.Role.String(), "State"), st.Term, st.Leader, st.Commit, st.Applied, st.Last)
	m.core.VisitProgress(func(id, match uint64, state string, alive bool) {
		s.printf("  %d: match %d, %s", id, match, state)
	})
}

// parseMessage reads a message that a script sends by hand.
func (s *script) parseMessage(t *testing.T, d *datadriven.TestData, to uint64) octopiipb.PeerMessage {
	msg := octopiipb.PeerMessage{Message: raftpb.Message{To: to}}
	var typ string
	d.ScanArgs(t, "type", &typ)
	msg.Type = raftpb.MessageType(raftpb.MessageType_value[typ])
	d.MaybeScanArgs(t, "from", &msg.From)
	d.MaybeScanArgs(t, "term", &msg.Term)
	d.MaybeScanArgs(t, "logterm", &msg.LogTerm)
	d.MaybeScanArgs(t, "index", &msg.Index)
	d.MaybeScanArgs(t, "commit", &msg.Commit)
	var index, term uint64
	d.MaybeScanArgs(t, "entry", &index, &term)
	if index != 0 {
		msg.Entries = []raftpb.Entry{{Index: index, Term: term}}
	}
	return msg
}

// parseChanges reads what becomes of which member, as in promote=4 remove=2, with
// replaces=2 for the one before it.
func parseChanges(t *testing.T, d *datadriven.TestData) (changes []Change) {
	ops := map[string]ChangeOp{"add": AddLearner, "promote": Promote, "remove": Remove, "demote": Demote, "move": UpdateAddress, "rank": SetPriority}
	for _, a := range d.CmdArgs {
		op, ok := ops[a.Key]
		if !ok && a.Key != "replaces" {
			continue
		}
		id, err := strconv.ParseUint(a.Vals[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			changes[len(changes)-1].Member.Replaces = id
			continue
		}
		changes = append(changes, Change{Op: op, IfSilent: d.HasArg("if-silent"), Member: octopiipb.Member{ID: id, Address: fmt.Sprintf("addr%d", id), Promote: op == AddLearner && d.HasArg("wish")}})
	}
	return changes
}

func describe(ms *octopiipb.Membership) string {
	var b strings.Builder
	for _, m := range ms.Members {
		fmt.Fprintf(&b, "%d:%s ", m.ID, strings.ToLower(m.Kind.String()))
	}
	for _, c := range ms.UnderWay {
		fmt.Fprintf(&b, "(%d of %d under way) ", c.Op, c.Member.ID)
	}
	if len(ms.Removed) > 0 {
		fmt.Fprintf(&b, "removed:%v ", ms.RemovedIDs())
	}
	if ms.Settings.FailoverByTimeout {
		b.WriteString("failover:timeout ")
	}
	if ms.Settings.Format != 0 {
		fmt.Fprintf(&b, "level:%d ", ms.Settings.Format)
	}
	return strings.TrimSpace(b.String())
}

func describeAppend(a *Append) string {
	var parts []string
	for _, e := range a.Entries {
		parts = append(parts, fmt.Sprintf("%d/%d", e.Term, e.Index))
	}
	if a.Snapshot != nil {
		parts = append(parts, fmt.Sprintf("snapshot at %d", a.Snapshot.Metadata.Index))
	}
	if !raft.IsEmptyHardState(a.HardState) {
		parts = append(parts, fmt.Sprintf("term %d vote %d commit %d", a.HardState.Term, a.HardState.Vote, a.HardState.Commit))
	}
	if len(parts) == 0 {
		return "nothing, for what waits behind it"
	}
	return strings.Join(parts, ", ")
}

func describeRaft(m raftpb.Message) string { return describeMessage(octopiipb.PeerMessage{Message: m}) }

func describeMessage(m octopiipb.PeerMessage) string {
	s := fmt.Sprintf("%s to %d: term %d", m.Type, m.To, m.Term)
	if m.Type == raftpb.MsgHeartbeatResp {
		return s + fmt.Sprintf(" applied %d", m.Note.Applied)
	}
	if m.Index+m.LogTerm > 0 {
		s += fmt.Sprintf(" behind %d/%d", m.LogTerm, m.Index)
	}
	for _, e := range m.Entries {
		if m.Type == raftpb.MsgApp {
			s += fmt.Sprintf(" %d/%d", e.Term, e.Index)
		}
	}
	if m.Commit > 0 {
		s += fmt.Sprintf(" commit %d", m.Commit)
	}
	if n := &m.Note; n.CommitTerm > 0 {
		s += fmt.Sprintf(" commit %d/%d", n.CommitTerm, n.Commit)
	} else if n.Commit > 0 {
		s += fmt.Sprintf(" commit %d", n.Commit)
	}
	if m.Snapshot != nil {
		s += fmt.Sprintf(" snapshot at %d", m.Snapshot.Metadata.Index)
	}
	if m.Reject {
		s += fmt.Sprintf(" rejected, hint %d", m.RejectHint)
	}
	return s
}

func describeReply(p octopiipb.Reply) string {
	if err := FromCode(p.Code, p.Reason); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("index %d", p.Index)
}

func describeOutcome(o Outcome) string {
	if o.Err != nil {
		return o.Err.Error()
	}
	return fmt.Sprintf("ok, %d", o.Index)
}

// quiet is raft's log, left out.
type quiet struct{}

func (quiet) Debug(...any)            {}
func (quiet) Debugf(string, ...any)   {}
func (quiet) Info(...any)             {}
func (quiet) Infof(string, ...any)    {}
func (quiet) Warning(...any)          {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Error(...any)            {}
func (quiet) Errorf(string, ...any)   {}
func (quiet) Fatal(v ...any)          { panic(fmt.Sprint(v...)) }
func (quiet) Fatalf(f string, v ...any) {
	panic(fmt.Sprintf(f, v...))
}
func (quiet) Panic(v ...any)            { panic(fmt.Sprint(v...)) }
func (quiet) Panicf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
