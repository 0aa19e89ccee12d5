package sim

import (
	"flag"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
	octopiipb "github.com/octopii/octopii/proto"
)

var scenarioTrace = flag.Bool("scenario-trace", false, "show all that happens in a scenario")

// TestScenarios runs the scripts in testdata/scenarios: comment, command, ----,
// what came of it. Each is a scenario of docs/TESTING.md in a world of its own,
// and every invariant is checked all along. After a deliberate change rewrite
// them with
//
//	go test ./internal/sim -run TestScenarios -rewrite
//
// and read the diff. What the commands are is said in docs/TESTING.md.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, filepath.Join("..", "..", "testdata", "scenarios"), func(t *testing.T, path string) {
		exclusively(1, func() {
			s := &scenario{t: t}
			checked := false
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				checked = d.Cmd == "check"
				return s.run(t, d)
			})
			if *scenarioTrace {
				for _, l := range s.lines {
					t.Log(l)
				}
			}
			if !checked {
				t.Error("a scenario ends with check")
			}
		})
	})
}

// scenario is a world that a script drives.
type scenario struct {
	t   *testing.T
	d   *datadriven.TestData
	w   *world
	out strings.Builder

	// names are what the script calls members, if not by their IDs.
	names map[*member]string
	// calls are those that the script named.
	calls map[string]*call
	// rules are what befalls messages, and kept are those that were held.
	rules []rule
	kept  []held
	// lines are the whole trace; those before told were looked at by said.
	lines []string
	told  int
	// leaders and term are how many leaders there had been, and the highest term,
	// when the script asked last.
	leaders int
	term    uint64
	// votes are those given since the script asked last.
	votes []string
	// value is the last one that was proposed.
	value uint64
	// images are old states of disks.
	images map[*member]image
}

// call is a request that the script made.
type call struct {
	of  *member
	op  *op
	end string
}

// rule keeps messages from arriving, or keeps a copy of them.
type rule struct {
	from, to *member
	typ      string
	what     string
}

// held is a message that was kept.
type held struct {
	from, to *member
	arrive   func()
}

// sent implements the script of a network.
func (s *scenario) sent(from *member, m *raftpb.Message) {
	switch {
	case m.Type == raftpb.MsgVoteResp && !m.Reject:
		s.votes = append(s.votes, fmt.Sprintf("%s votes for %s", s.name(from), s.nameOf(m.To)))
	case m.Type == raftpb.MsgVoteResp:
		s.votes = append(s.votes, fmt.Sprintf("%s does not vote for %s", s.name(from), s.nameOf(m.To)))
	}
}

// holds implements the script of a network.
func (s *scenario) holds(from, to *member, m *raftpb.Message, arrive func()) bool {
	for _, r := range s.rules {
		if r.from != nil && r.from != from || r.to != nil && r.to != to || r.typ != "" && r.typ != m.Type.String() {
			continue
		}
		if r.what != "lose" {
			s.kept = append(s.kept, held{from, to, arrive})
		}
		return r.what != "copy"
	}
	return false
}

func (s *scenario) printf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *scenario) fatalf(format string, args ...any) {
	s.t.Helper()
	for _, l := range s.lines[max(0, len(s.lines)-lastLines):] {
		s.t.Log(l)
	}
	s.t.Fatalf("%s: %s: %s", s.d.Pos, s.d.Cmd, fmt.Sprintf(format, args...))
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData) string {
	s.t, s.d = t, d
	s.out.Reset()
	do, ok := commands[d.Cmd]
	if !ok {
		s.fatalf("no such command")
	}
	if s.w == nil && d.Cmd != "cluster" {
		s.fatalf("a script begins with cluster")
	}
	do(s)
	for _, m := range s.w.members {
		m.settle()
	}
	s.unbroken()
	if s.out.Len() == 0 {
		s.printf("ok")
	}
	return s.out.String()
}

// unbroken ends the script if an invariant does not hold.
func (s *scenario) unbroken() {
	if f := s.w.failed; f != nil {
		s.fatalf("%s does not hold: %s", f.Invariant, f.Detail)
	}
}

// commands of the scripts.
var commands = map[string]func(*scenario){
	"cluster":     (*scenario).cluster,
	"join":        (*scenario).join,
	"add-learner": func(s *scenario) { s.change(octopiipb.AddLearner) },
	"promote":     func(s *scenario) { s.change(octopiipb.Promote) },
	"demote":      func(s *scenario) { s.change(octopiipb.Demote) },
	"change":      (*scenario).changes,
	"remove":      func(s *scenario) { s.change(octopiipb.Remove) },
	"empty":       (*scenario).empty,
	"name":        (*scenario).nameMember,

	"propose":  (*scenario).propose,
	"fill":     (*scenario).fill,
	"read":     (*scenario).read,
	"transfer": (*scenario).transfer,
	"snapshot": (*scenario).snapshot,
	"outcome":  (*scenario).outcome,
	"give-up":  (*scenario).giveUp,
	"load":     (*scenario).load,
	"quiet":    (*scenario).quiet,

	"run":    func(s *scenario) { s.w.runUntil(s.w.now + s.time(s.d.CmdArgs[0].Key)) },
	"wait":   (*scenario).wait,
	"start":  (*scenario).start,
	"crash":  (*scenario).crash,
	"pause":  func(s *scenario) { s.member("id").pause() },
	"resume": func(s *scenario) { s.member("id").resume() },
	"clock":  func(s *scenario) { s.member("id").rate = s.float("rate") },
	"sweep":  (*scenario).sweep,
	"disk":   (*scenario).disk,
	"room":   (*scenario).room,
	"damage": (*scenario).damage,
	"wipe":   (*scenario).wipe,
	"lose-log": func(s *scenario) {
		m := s.member("id")
		if m.up() {
			s.fatalf("%s runs", m.name())
		}
		s.w.nemesis.loseLog(m)
	},
	"again":   (*scenario).again,
	"save":    (*scenario).saveImage,
	"restore": (*scenario).restoreImage,
	"branch":  func(s *scenario) { s.w.nemesis.branch() },
	"stranger": func(s *scenario) {
		for range s.number("count", 1) {
			s.w.nemesis.strangerAt(s.member("id"))
		}
	},

	"partition": (*scenario).partition,
	"cut":       func(s *scenario) { s.w.net.cut(s.member("from").address, s.member("to").address) },
	"firewall":  func(s *scenario) { s.w.net.wall(s.member("from").address, s.member("to").address) },
	"loss": func(s *scenario) {
		d := direction{s.member("from").address, s.member("to").address}
		s.w.net.losses[d] = int(s.number("percent", 0))
	},
	"packets": func(s *scenario) {
		s.w.net.lossyStreams(int(s.number("percent", 0)), s.d.HasArg("tuned"))
	},
	"heal":    func(s *scenario) { s.w.net.heal(); s.w.net.calm() },
	"net":     (*scenario).net,
	"hold":    func(s *scenario) { s.rule("hold") },
	"lose":    func(s *scenario) { s.rule("lose") },
	"copy":    func(s *scenario) { s.rule("copy") },
	"release": (*scenario).release,

	"status":    (*scenario).status,
	"level":     (*scenario).level,
	"values":    (*scenario).values,
	"elections": (*scenario).elections,
	"votes":     (*scenario).votesGiven,
	"said":      (*scenario).said,
	"branches":  (*scenario).branches,
	"log":       (*scenario).logIsShort,
	"check":     (*scenario).check,
}

// The arguments.

func (s *scenario) text(key string) string {
	var v string
	if a, ok := s.d.Arg(key); ok && len(a.Vals) > 0 {
		v = strings.Join(a.Vals, ", ")
	}
	return v
}

func (s *scenario) number(key string, otherwise uint64) uint64 {
	if !s.d.HasArg(key) {
		return otherwise
	}
	n, err := strconv.ParseUint(s.text(key), 10, 64)
	if err != nil {
		s.fatalf("%s: %v", key, err)
	}
	return n
}

func (s *scenario) float(key string) float64 {
	f, err := strconv.ParseFloat(s.text(key), 64)
	if err != nil {
		s.fatalf("%s: %v", key, err)
	}
	return f
}

func (s *scenario) time(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.fatalf("%v", err)
	}
	return d
}

// member is whom an argument means: an ID, a name, the leader, or the first
// follower that runs.
func (s *scenario) member(key string) *member {
	m := s.called(s.text(key))
	if m == nil {
		s.fatalf("%s: there is no member %q", key, s.text(key))
	}
	return m
}

func (s *scenario) maybeMember(key string) *member {
	if !s.d.HasArg(key) {
		return nil
	}
	return s.member(key)
}

func (s *scenario) called(what string) *member {
	if what == "leader" {
		return s.w.leader()
	}
	l := s.w.leader()
	for _, m := range s.w.members {
		if s.name(m) == what || strconv.FormatUint(m.id, 10) == what || what == "follower" && m.awake() && m != l {
			return m
		}
	}
	return nil
}

func (s *scenario) name(m *member) string {
	if n, ok := s.names[m]; ok {
		return n
	}
	return strconv.FormatUint(m.id, 10)
}

func (s *scenario) nameOf(id uint64) string {
	if m := s.w.member(id); m != nil {
		return s.name(m)
	}
	return "nobody"
}

// nameMember gives members names: name new=leader.
func (s *scenario) nameMember() {
	for _, a := range s.d.CmdArgs {
		m := s.called(a.Vals[0])
		if m == nil {
			s.fatalf("there is no member %q", a.Vals[0])
		}
		s.names[m] = a.Key
	}
}

// The cluster.

func (s *scenario) cluster() {
	cfg := draw(1, Options{Faults: []string{}})
	cfg.Seed = s.number("seed", 1)
	cfg.durable = s.d.HasArg("durable")
	cfg.tick, cfg.electionTicks = 100*time.Millisecond, 10
	cfg.snapshotEntries, cfg.snapshotLogBytes = s.number("snapshot-entries", 1<<20), 64<<20
	cfg.trailingEntries = s.number("trailing", 1)
	cfg.messageBytes, cfg.cacheBytes, cfg.inflight = s.number("message-bytes", 64<<10), 1<<20, 16
	cfg.promoteLag = s.number("promote-lag", 10)
	cfg.joinTimeoutTicks = int(s.number("join-timeout", 600))
	cfg.segmentBytes = int64(s.number("segment-bytes", 64<<10))
	cfg.stallLimit = time.Minute
	if s.d.HasArg("stall-limit") {
		cfg.stallLimit = s.time(s.text("stall-limit"))
	}
	cfg.think, cfg.patience = 200*time.Millisecond, 1000*time.Hour
	cfg.loopMax, cfg.applyMax, cfg.taskMax = 50*time.Microsecond, 50*time.Microsecond, time.Millisecond
	if s.d.HasArg("task") { // how long the writing or sending of a snapshot takes at most
		cfg.taskMax = s.time(s.text("task"))
	}
	if a, ok := s.d.Arg("priorities"); ok {
		for _, v := range a.Vals {
			p, err := strconv.Atoi(v)
			if err != nil {
				s.fatalf("%v", err)
			}
			cfg.priorities = append(cfg.priorities, p)
		}
	}
	cfg.Members = int(s.number("members", 3))

	cfg.together = s.d.HasArg("expect")
	cfg.reads = uint32(s.number("reads", 0))

	w := newWorld(cfg)
	w.byHand = true
	w.trace = func(l string) { s.lines = append(s.lines, l) }
	w.net.script = s
	s.w, s.names, s.calls, s.images = w, map[*member]string{}, map[string]*call{}, map[*member]image{}
	w.found()
	if cfg.together { // what comes of it is for the script
		s.printf("%s that expect each other", plural(cfg.Members, "member", "members"))
		return
	}
	s.elections()
	s.out.Reset()
	s.printf("%s, and 1 leads", plural(cfg.Members, "member", "members"))
}

// join starts a new member that asks another one to let it in.
func (s *scenario) join() {
	m := s.w.addMember()
	m.join = []string{s.w.leader().address}
	if by := s.maybeMember("by"); by != nil {
		m.join[0] = by.address
	}
	m.priority = int(s.number("priority", 0))
	m.reads = uint32(s.number("reads", uint64(m.reads)))
	if old := s.maybeMember("at"); old != nil { // where another one was, whose place it takes
		m.rejoins, m.address = !s.d.HasArg("anew"), old.address
	}
	if old := s.maybeMember("replaces"); old != nil {
		m.rejoins, m.replaces = true, old.id
	}
	if m.rejoins {
		for _, o := range s.w.members {
			s.w.nemesis.removed[o.id] = s.w.nemesis.removed[o.id] || !o.up() && (o.id == m.replaces || o.address == m.address)
		}
	}
	m.start()
	if s.d.HasArg("voter") {
		s.within("it votes", func() bool { return slices.Contains(s.w.leader().status().Membership.Voters(), m.id) })
		s.printf("%s votes", s.name(m))
		return
	}
	s.printf("%s", s.where(m))
}

// empty starts a new member that waits to be added.
func (s *scenario) empty() {
	m := s.w.addMember()
	m.start()
	s.printf("%s", s.where(m))
}

// The requests.

// await lets time pass until a call has ended, and tells how; with as= it only
// names it.
func (s *scenario) await(m *member, calls ...*call) {
	if as := s.text("as"); as != "" {
		for i, c := range calls {
			if i > 0 {
				as = fmt.Sprintf("%s%d", s.text("as"), i+1)
			}
			s.calls[as] = c
		}
		return
	}
	s.w.runWhile(s.w.now+s.limit(), func() bool {
		return slices.ContainsFunc(calls, func(c *call) bool { return c.text() == "" })
	})
	s.tell(m, calls)
}

func (s *scenario) limit() time.Duration {
	if s.d.HasArg("within") {
		return s.time(s.text("within"))
	}
	return time.Minute
}

// tell prints how calls ended, those that ended alike together.
func (s *scenario) tell(m *member, calls []*call) {
	for i := 0; i < len(calls); {
		n := 1
		for i+n < len(calls) && like(calls[i], calls[i+n]) {
			n++
		}
		text := calls[i+n-1].text()
		if text == "" {
			text = "no answer yet"
		}
		if n > 1 {
			text = fmt.Sprintf("%d, the last: %s", n, text)
		}
		if s.d.HasArg("brief") {
			text, _, _ = strings.Cut(text, " at ")
		}
		s.printf("%s: %s", s.name(m), text)
		i += n
	}
}

func like(a, b *call) bool {
	if a.op != nil && b.op != nil && a.op.outcome == done && b.op.outcome == done && a.op.query == b.op.query {
		return true
	}
	return a.text() == b.text()
}

// text says how a call ended; it is empty while it has not.
func (c *call) text() string {
	o := c.op
	switch {
	case c.end != "":
		return c.end
	case o == nil && !c.of.up():
		return "unknown: the member is down"
	case o == nil || o.outcome == waiting:
		return ""
	case o.outcome == done && o.query:
		return fmt.Sprintf("read %d values at %d", lengthOf(string(o.output)), o.index)
	case o.outcome == done:
		return fmt.Sprintf("committed at %d", o.index)
	case o.err == nil:
		return o.outcome.String()
	case o.outcome == notCommitted:
		return "certainly not committed: " + o.err.Error()
	default:
		return "unknown: " + o.err.Error()
	}
}

func (s *scenario) call(m *member, query bool, input command) *call {
	if !m.up() {
		s.fatalf("%s does not run", m.name())
	}
	c := &client{w: s.w, number: len(s.w.clients) + 1, quiet: true}
	s.w.clients = append(s.w.clients, c)
	o := &op{client: c, member: m, query: query, input: input.encode()}
	c.submit(o)
	return &call{of: m, op: o}
}

// propose appends values to the list that is the scripts' state: the next ones,
// or the one that is given. Several are proposed one after the other, or all at
// once.
func (s *scenario) propose() {
	m := s.member("id")
	n := s.number("count", 1)
	var calls []*call
	for range n {
		s.value = s.number("value", s.value+1)
		what := command{verb: push, a: s.value, padding: int(s.number("bytes", 0))}
		if s.d.HasArg("swap") {
			what = command{verb: swap, a: s.value}
		}
		c := s.call(m, false, what)
		calls = append(calls, c)
		if !s.d.HasArg("at-once") && s.text("as") == "" {
			s.w.runWhile(s.w.now+s.limit(), func() bool { return c.text() == "" })
		}
		if s.d.HasArg("crash-when-answered") {
			s.crashWhenAnswered(m, c)
		}
	}
	s.await(m, calls...)
}

// fill proposes until that fails.
func (s *scenario) fill() {
	m := s.member("id")
	for range 10_000 {
		s.value++
		c := s.call(m, false, command{verb: push, a: s.value, padding: int(s.number("bytes", 2000))})
		s.w.runWhile(s.w.now+s.limit(), func() bool { return c.text() == "" })
		if c.op.outcome != done {
			s.tell(m, []*call{c})
			return
		}
	}
	s.fatalf("it never does")
}

func (s *scenario) read() {
	m := s.member("id")
	s.await(m, s.call(m, true, command{verb: list}))
}

// request asks for what no client does.
func (s *scenario) request(m *member, ask func(done func(stepped.Answer)) (giveUp func() error), text func(stepped.Answer) string) {
	if !m.up() {
		s.fatalf("%s does not run", m.name())
	}
	c := &call{of: m}
	ask(func(a stepped.Answer) {
		if c.end = text(a); a.Err != nil {
			c.end = "failed: " + a.Err.Error()
		}
	})
	s.await(m, c)
}

// changes makes several at once: change id=1 promote=4 remove=3.
func (s *scenario) changes() {
	ops := map[string]octopiipb.ChangeOp{"add": octopiipb.AddLearner, "promote": octopiipb.Promote, "demote": octopiipb.Demote, "remove": octopiipb.Remove}
	var list []octopiipb.MemberChange
	for _, a := range s.d.CmdArgs {
		if op, ok := ops[a.Key]; ok {
			m := s.called(a.Vals[0])
			list = append(list, octopiipb.MemberChange{Op: op, Member: octopiipb.Member{ID: m.id, Address: m.address}})
			s.w.nemesis.removed[m.id] = s.w.nemesis.removed[m.id] || op == octopiipb.Remove
		}
	}
	s.ask(s.member("id"), list...)
}

func (s *scenario) change(op octopiipb.ChangeOp) {
	c := octopiipb.MemberChange{Op: op, Member: octopiipb.Member{ID: s.number("member", 0)}}
	if m := s.called(s.text("member")); m != nil {
		c.Member.ID, c.Member.Address = m.id, m.address
	}
	c.Member.Promote = s.d.HasArg("promote")
	if op == octopiipb.Remove {
		s.w.nemesis.removed[c.Member.ID] = true
	}
	s.ask(s.member("id"), c)
}

func (s *scenario) ask(m *member, changes ...octopiipb.MemberChange) {
	change := func(done func(stepped.Answer)) func() error { return m.node.Change(changes, done) }
	s.request(m, change, func(a stepped.Answer) string {
		if a.Err != nil {
			return ""
		}
		var list []string
		for _, m := range a.Membership.Members {
			list = append(list, s.memberWord(m.ID, m.Kind == octopiipb.Learner))
		}
		return "members " + strings.Join(list, " ")
	})
}

func (s *scenario) memberWord(id uint64, learner bool) string {
	if learner {
		return s.nameOf(id) + "?"
	}
	return s.nameOf(id)
}

func (s *scenario) transfer() {
	to := s.member("to")
	m := s.member("id")
	transfer := func(done func(stepped.Answer)) func() error { return m.node.Transfer(to.id, done) }
	s.request(m, transfer, func(stepped.Answer) string {
		return s.name(to) + " is asked to lead"
	})
	if s.text("as") == "" && !s.d.HasArg("no-wait") {
		s.within(s.name(to)+" leads", func() bool { return s.w.leader() == to && s.oneLeader() })
	}
}

// oneLeader: everybody that runs and is spoken to agrees who leads.
func (s *scenario) oneLeader() bool {
	l := s.w.leader()
	for _, m := range s.w.running() {
		if st := m.status(); st.Role != node.Uninitialized && st.Leader != l.id {
			return false
		}
	}
	return true
}

func (s *scenario) snapshot() {
	m := s.member("id")
	c := &call{of: m}
	m.node.Snapshot(func(index uint64, err error) {
		c.end = fmt.Sprintf("snapshot at %d", index)
		if err != nil {
			c.end = "no snapshot: " + err.Error()
		}
	})
	s.await(m, c)
}

// outcome waits for a call that was named, or, with now, only looks.
func (s *scenario) outcome() {
	for _, a := range s.d.CmdArgs {
		if a.Key == "now" || a.Key == "within" {
			continue
		}
		c := s.calls[a.Key]
		if c == nil {
			s.fatalf("there is no call %s", a.Key)
		}
		if !s.d.HasArg("now") {
			s.w.runWhile(s.w.now+s.limit(), func() bool { return c.text() == "" })
		}
		s.printf("%s:", a.Key)
		s.tell(c.of, []*call{c})
	}
}

// giveUp lets the callers give up.
func (s *scenario) giveUp() {
	for _, a := range s.d.CmdArgs {
		o := s.calls[a.Key].op
		if o.outcome == waiting {
			o.err = o.client.giveUp()
			o.client.finish(o, outcomeOf(o.err))
		}
		s.tell(o.member, []*call{s.calls[a.Key]})
	}
}

// load begins that many clients that call any member all the time.
func (s *scenario) load() {
	s.w.cfg.patience = time.Second
	for range s.number("clients", 3) {
		s.w.addClient()
	}
}

// quiet ends the load, and says whether anything was done since it began.
func (s *scenario) quiet() {
	for _, c := range s.w.clients {
		c.quiet = true
	}
	s.within("every call returns", func() bool {
		return !slices.ContainsFunc(s.w.clients, func(c *client) bool { return c.op != nil })
	})
	reads, writes := 0, 0
	for _, o := range s.w.check.ops {
		switch {
		case o.outcome != done:
		case o.query:
			reads++
		default:
			writes++
		}
	}
	s.printf("more than %d writes and %d reads were done", lower(writes), lower(reads))
}

// lower is a round number that n exceeds by far, so that it stays the same when
// something takes a little longer.
func lower(n int) int {
	l := 0
	for _, step := range []int{1, 10, 100, 1000} {
		if n > 3*step {
			l = step
		}
	}
	return l
}

// Time and processes.

func (s *scenario) within(what string, ok func() bool) {
	s.w.runWhile(s.w.now+s.limit(), func() bool { return !ok() })
	s.unbroken()
	if !ok() {
		s.fatalf("within %v: %s: it is not so: %s", s.limit(), what, s.w.summary())
	}
}

// wait lets time pass until all of what is said is true.
func (s *scenario) wait() {
	for _, a := range s.d.CmdArgs {
		switch a.Key {
		case "leader": // somebody leads, and all follow
			s.within("there is a leader", func() bool { return s.w.leader() != nil && s.oneLeader() })
		case "new-leader": // of a majority, whatever the others think
			old := s.called(a.Vals[0])
			s.within("somebody else leads", func() bool { l := s.w.leader(); return l != nil && l != old })
		case "no-leader":
			s.within("nobody leads", func() bool { return s.w.leader() == nil })
		case "equal":
			s.within("all that run are equal", s.equal)
		case "voters":
			s.within("so many vote", func() bool {
				l := s.w.leader()
				return l != nil && len(l.status().Membership.Voters()) == int(s.number("voters", 0))
			})
		case "half-done": // it has applied a change of several members, and not left it
			m := s.called(a.Vals[0])
			half := func() bool { return m.status().Membership.Joint }
			for end := s.w.now + s.limit(); !half() && s.w.now < end; {
				s.w.runUntil(s.w.now + 10*time.Microsecond)
			}
			s.within(s.name(m)+" is half done", half)
		case "member", "no-member":
			m := s.called(a.Vals[0])
			s.within(s.name(m)+" is one, or not", func() bool {
				l := s.w.leader()
				if l == nil {
					return false
				}
				_, ok := l.status().Membership.Member(m.id)
				return ok == (a.Key == "member")
			})
		case "down":
			m := s.called(a.Vals[0])
			s.within(s.name(m)+" is down", func() bool { return !m.up() })
		case "up":
			m := s.called(a.Vals[0])
			s.within(s.name(m)+" follows", func() bool { return m.up() && m.status().Leader != 0 })
		case "caught-up": // one has what the leader has committed
			m := s.called(a.Vals[0])
			s.within(s.name(m)+" has everything", func() bool {
				l := s.w.leader()
				return l != nil && m.up() && m.status().Applied == l.status().Commit
			})
		case "lead": // a certain one
			m := s.called(a.Vals[0])
			s.within(s.name(m)+" leads", func() bool { return s.w.leader() == m && s.oneLeader() })
		case "has":
			m := s.called(a.Vals[0])
			s.within(s.name(m)+" is part of the cluster", func() bool { return m.up() && m.status().Role != node.Uninitialized })
		case "within":
		default:
			s.fatalf("nothing is called %s", a.Key)
		}
	}
}

// equal: every member that runs and belongs to the cluster has all of the log.
func (s *scenario) equal() bool {
	l := s.w.leader()
	if l == nil {
		return false
	}
	st := l.status()
	for _, m := range s.w.running() {
		if _, ok := st.Membership.Member(m.id); !ok || m.view.forgets {
			continue
		}
		at := m.status()
		if at.Applied != st.Commit || at.Commit != st.Commit || at.Leader != l.id || m.machine.chain != l.machine.chain || m.machine.applied != l.machine.applied {
			return false
		}
	}
	return st.LastIndex == st.Commit
}

func (s *scenario) start() {
	for _, m := range s.members("id") {
		if m.up() {
			s.fatalf("%s runs", m.name())
		}
		m.gone, m.acceptLoss = false, s.d.HasArg("accept-loss")
		m.gaveUp = m.gaveUp || m.acceptLoss
		m.reads = uint32(s.number("reads", uint64(m.reads)))
		m.start()
		if !m.up() {
			s.printf("%s", s.where(m))
		}
	}
}

// members are several: id=(1, 2).
func (s *scenario) members(key string) []*member {
	a, _ := s.d.Arg(key)
	var list []*member
	for _, v := range a.Vals {
		m := s.called(v)
		if m == nil {
			s.fatalf("there is no member %q", v)
		}
		list = append(list, m)
	}
	return list
}

// crash ends processes. With power all that was not synced is lost, with torn
// some of it; in=N lets so many more changes of the disk through first.
func (s *scenario) crash() {
	for _, m := range s.members("id") {
		if s.d.HasArg("in") {
			m.disk.crashIn = int(s.number("in", 0))
			continue
		}
		s.kill(m)
	}
}

func (s *scenario) kill(m *member) {
	if m.dark = s.d.HasArg("power"); m.dark {
		m.disk.plug(m.disk.mem.CrashLosingAll())
	}
	m.kill(s.d.HasArg("torn"))
}

// crashWhenAnswered cuts the power at the moment at which a call is answered.
func (s *scenario) crashWhenAnswered(m *member, c *call) {
	w := s.w
	limit := w.now + s.limit()
	for w.failed == nil && c.text() == "" && len(w.todo) > 0 && w.now < limit {
		w.runUntil(w.todo[0].at)
	}
	m.disk.plug(m.disk.mem.CrashLosingAll())
	m.dark = true
	m.kill(false)
}

// sweep does something again and again, each time with the power failing one
// change of the disk later, until it is done without: the member comes back every
// time, with all that it promised.
func (s *scenario) sweep() {
	m, w := s.member("id"), s.w
	for n := 0; ; n++ {
		if n > 1000 {
			s.fatalf("it never ends without a crash")
		}
		life, finished := s.begin(m, n)
		s.within("it crashed or is done", func() bool { return m.life != life || *finished })
		if m.life == life {
			m.disk.crashIn = -1
			if n < 2 {
				s.fatalf("nothing was written")
			}
			s.within("all are equal", s.equal)
			s.printf("the power failed before every change of its disk: %s came back each time", s.name(m))
			return
		}
		m.start()
		s.within("it is back", func() bool { return m.up() && w.leader() != nil && s.oneLeader() && s.equal() })
	}
}

// begin begins what a sweep is about, with the power to fail after n changes.
func (s *scenario) begin(m *member, n int) (life int, finished *bool) {
	w, finished := s.w, new(bool)
	write := func(at *member) {
		s.value++
		c := s.call(at, false, command{verb: push, a: s.value})
		s.within("a write is answered", func() bool { return c.text() != "" })
	}
	switch during := s.text("during"); during {
	case "snapshot":
		for range 10 { // a machine that keeps its own data saves them now and then
			write(w.leader())
		}
		s.within("all are equal", s.equal)
		if m.machine.durable {
			m.machine.save() // else there may be nothing new to take
		}
		m.disk.crashIn = n
		m.node.Snapshot(func(uint64, error) { *finished = true })
	case "proposal":
		to := w.leader()
		if s.d.HasArg("leads") && to != m {
			to.node.Transfer(m.id, func(stepped.Answer) {})
			to.settle()
			s.within("it leads", func() bool { return w.leader() == m && s.oneLeader() })
			to = m
		}
		s.within("all are equal", s.equal)
		m.disk.crashIn = n
		for range s.number("count", 1) {
			s.value++
			s.call(to, false, command{verb: push, a: s.value, padding: int(s.number("bytes", 0))})
		}
		w.at(300*time.Millisecond, "it went well", func() { *finished = true })
	case "install":
		m.kill(false)
		for range 3 {
			write(w.leader())
		}
		l, taken := w.leader(), false
		l.node.Snapshot(func(uint64, error) { taken = true })
		l.settle()
		s.within("the leader has a snapshot", func() bool { return taken })
		m.disk.crashIn = n
		life = m.life + 1
		m.start()
		w.at(2*time.Second, "it went well", func() { *finished = m.up() && m.status().Applied == l.status().Commit })
		return life, finished
	default:
		s.fatalf("during what?")
	}
	m.settle()
	return m.life, finished
}

// The disks.

func (s *scenario) disk() {
	for _, m := range s.members("id") {
		switch d := m.disk; {
		case s.d.HasArg("stall"):
			d.stalled = s.w.now + s.time(s.text("stall"))
		case s.d.HasArg("slow"):
			d.slow = s.time(s.text("slow"))
		case s.d.HasArg("full"):
			d.mem.SetCapacity(d.mem.Used() + int64(s.number("full", 0)))
		case s.d.HasArg("space"):
			d.mem.SetCapacity(0)
		case s.d.HasArg("fail"):
			kinds := map[string]vfstest.Kind{"sync": vfstest.Sync, "write": vfstest.Write, "read": vfstest.Read}
			d.failing = map[vfstest.Kind]error{kinds[s.text("fail")]: errIO}
		}
	}
}

// room says how much state machines have, and how much is left of it.
func (s *scenario) room() {
	for _, m := range s.members("id") {
		switch {
		case s.d.HasArg("bytes"):
			m.machine.limit(int64(s.number("bytes", 0)), false)
		case s.d.HasArg("any"):
			m.machine.free()
		default:
			s.printf("%s: %d bytes are left", s.name(m), m.machine.room)
		}
	}
}

// damage zeroes a sector of a member that does not run: the one in the middle of
// what is written in the fullest file of its log.
func (s *scenario) damage() {
	m := s.member("id")
	if m.up() {
		s.fatalf("%s runs", m.name())
	}
	m.view.damaged = true
	var file string
	var written []int // sectors
	image := m.disk.mem.Image()
	var paths []string
	for p := range image {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		var list []int
		for at := 0; at+vfstest.SectorSize <= len(image[p]); at += vfstest.SectorSize {
			if slices.ContainsFunc(image[p][at:at+vfstest.SectorSize], func(b byte) bool { return b != 0 }) {
				list = append(list, at)
			}
		}
		if strings.Contains(p, "wal") && len(list) > len(written) {
			file, written = p, list
		}
	}
	if len(written) < 3 {
		s.fatalf("there is no log to damage in %v", paths)
	}
	data := slices.Clone(image[file])
	at := written[len(written)/2]
	clear(data[at : at+vfstest.SectorSize])
	m.disk.mem.WriteFile(file, data)
}

// wipe empties the disk of a member that does not run.
func (s *scenario) wipe() {
	m := s.member("id")
	if m.up() {
		s.fatalf("%s runs", m.name())
	}
	m.disk.plug(vfstest.NewMem())
	m.machine.wipe()
	m.founder, m.expect, m.join = s.d.HasArg("bootstrap"), 0, nil
	if l := s.w.leader(); l != nil && !m.founder {
		m.join = []string{l.address}
	}
	m.view.forgets = true
}

// again empties the disks of members and starts them with the commands that they had:
// each is a new member, at the same address.
func (s *scenario) again() {
	for _, m := range s.members("id") {
		h := s.w.nemesis.wipeAndReturn(m)
		s.w.runUntil(s.w.now + time.Millisecond)
		s.printf("%s", s.where(h))
	}
}

func (s *scenario) saveImage() {
	m := s.member("id")
	s.images[m] = image{m.disk.mem.CrashKeepingAll(), m.machine.saved}
}

// restoreImage sets the disk of a member that does not run back.
func (s *scenario) restoreImage() {
	m := s.member("id")
	if m.up() {
		s.fatalf("%s runs", m.name())
	}
	m.disk.plug(s.images[m].mem.Clone())
	m.machine.saved = s.images[m].data
	m.view.forgets = true
}

// The network.

// partition 1 | 2 3
func (s *scenario) partition() {
	groups := [][]*member{nil}
	for _, a := range s.d.CmdArgs {
		if a.Key == "|" {
			groups = append(groups, nil)
			continue
		}
		m := s.called(a.Key)
		if m == nil {
			s.fatalf("there is no member %q", a.Key)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], m)
	}
	for i, a := range groups {
		for _, b := range groups[i+1:] {
			for _, x := range a {
				for _, y := range b {
					s.w.net.apart(x.address, y.address)
				}
			}
		}
	}
}

// net sets what befalls messages, one in so many.
func (s *scenario) net() {
	n := s.w.net
	n.lose, n.double, n.late = int(s.number("lose", 0)), int(s.number("double", 0)), int(s.number("late", 0))
	n.breaking, n.lateMax = int(s.number("breaking", 0)), 500*time.Millisecond
	if s.d.HasArg("slow") {
		n.slow = s.time(s.text("slow"))
	}
}

func (s *scenario) rule(what string) {
	s.rules = append(s.rules, rule{from: s.maybeMember("from"), to: s.maybeMember("to"), typ: s.text("type"), what: what})
}

// release lets arrive what was held: all of it, after which no rule is left; or
// what one held for another, or the first of that.
func (s *scenario) release() {
	from, to := s.maybeMember("from"), s.maybeMember("to")
	if from == nil && to == nil {
		s.rules = nil
	}
	var keep []held
	arrived := 0
	for _, h := range s.kept {
		switch {
		case from != nil && h.from != from, to != nil && h.to != to, s.d.HasArg("first") && arrived > 0:
			keep = append(keep, h)
		default:
			h.arrive()
			arrived++
		}
	}
	s.kept = keep
	if from != nil || to != nil {
		s.printf("%s", plural(arrived, "message arrives", "messages arrive"))
	}
}

// logIsShort holds a member to bounds of what it keeps.
func (s *scenario) logIsShort() {
	for _, m := range s.members("id") {
		st := m.status()
		entries, kib := s.number("entries", 0), s.number("kib", 0)
		if st.LastIndex-st.FirstIndex+1 > entries || m.disk.mem.Used() > int64(kib<<10) {
			s.fatalf("%s has entries %d to %d, and %d bytes on its disk", s.name(m), st.FirstIndex, st.LastIndex, m.disk.mem.Used())
		}
		s.printf("%s: at most %d entries in its log, %d KiB on its disk", s.name(m), entries, kib)
	}
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// What is seen.

func (s *scenario) status() {
	for _, m := range s.w.members {
		if ids := s.members("id"); len(ids) == 0 || slices.Contains(ids, m) {
			s.printf("%s", s.where(m))
		}
	}
}

// level says which format level is in force, and who keeps the leader from raising it.
func (s *scenario) level() {
	for _, m := range s.w.running() {
		st := m.status()
		line := fmt.Sprintf("%s: format level %d", s.name(m), st.Membership.FormatLevel)
		if len(st.LevelHeldBy) > 0 {
			line += fmt.Sprintf(", held by %d", st.LevelHeldBy)
		}
		s.printf("%s", line)
	}
}

// where says where a member is.
func (s *scenario) where(m *member) string {
	if !m.up() {
		if m.ended != nil {
			return fmt.Sprintf("%s: stopped: %s", s.name(m), incidental.ReplaceAllString(m.ended.Error(), "..."))
		}
		return s.name(m) + ": down"
	}
	st := m.status()
	var list []string
	for _, mem := range st.Membership.Members {
		list = append(list, s.memberWord(mem.ID, mem.Learner))
	}
	role := st.Role.String()
	switch {
	case st.Role == node.Uninitialized:
		return s.name(m) + ": uninitialized"
	case st.Role == node.Leader:
		role = "leads"
	case st.Role == node.Follower && st.Leader != 0:
		role = "follows " + s.nameOf(st.Leader)
	case st.Role == node.Follower || st.Role == node.PreCandidate:
		role = "knows no leader"
	}
	if m.paused {
		role += ", paused"
	}
	return fmt.Sprintf("%s: %s, log %d-%d, commit %d, applied %d, members %s", s.name(m), role,
		st.FirstIndex, st.LastIndex, st.Commit, st.Applied, strings.Join(list, " "))
}

// branches shows what members say that others have and the majority does not.
func (s *scenario) branches() {
	for _, m := range s.members("id") {
		for _, b := range m.status().Branches {
			s.printf("%s: %s has entries %d to %d, the last of term %d", s.name(m), s.nameOf(b.ID), b.First, b.Last, b.Term)
		}
	}
	if s.out.Len() == 0 {
		s.printf("nobody has anything that the majority does not have")
	}
}

// values shows the list that is the scripts' state.
func (s *scenario) values() {
	for _, m := range s.members("id") {
		l := m.machine.inner.(*registers).lists[0]
		var parts []string
		for i := 0; i < len(l); {
			n := 1
			for i+n < len(l) && l[i+n] == l[i]+uint64(n) {
				n++
			}
			if n < 3 {
				parts = append(parts, fmt.Sprint(l[i]))
				i++
				continue
			}
			parts = append(parts, fmt.Sprintf("%d-%d", l[i], l[i]+uint64(n)-1))
			i += n
		}
		s.printf("%s: [%s]", s.name(m), strings.Join(parts, " "))
	}
}

// elections says whether there were any since it was asked last.
func (s *scenario) elections() {
	leaders, term := len(s.w.check.leaders), uint64(0)
	for _, m := range s.w.running() {
		term = max(term, m.status().Term)
	}
	switch n := leaders - s.leaders; {
	case n > 0:
		s.printf("%s", plural(n, "new leader", "new leaders"))
	case term > s.term:
		s.printf("no new leader, but a higher term")
	default:
		s.printf("no new leader, and the same term")
	}
	s.leaders, s.term = leaders, max(s.term, term)
}

// votesGiven lists the votes that were given since it was asked last.
func (s *scenario) votesGiven() {
	slices.Sort(s.votes)
	for _, v := range slices.Compact(s.votes) {
		s.printf("%s", v)
	}
	if len(s.votes) == 0 {
		s.printf("nobody voted for another")
	}
	s.votes = nil
}

// incidental is what may be another in any version: files, and numbers that were
// drawn.
var incidental = regexp.MustCompile(`/data/[^ :]*|[0-9a-f]{12,}|of [0-9]+ bytes`)

// said looks for words in what a member logged since it was asked last.
func (s *scenario) said() {
	m, text := s.member("id"), s.text("text")
	for _, l := range s.lines[s.told:] {
		at := strings.Index(l, text)
		if at >= 0 && strings.Fields(l)[1] == m.name() {
			s.printf("%s: %s", s.name(m), incidental.ReplaceAllString(l[at:], "..."))
			s.told = len(s.lines)
			return
		}
	}
	s.printf("%s said nothing of the kind", s.name(m))
}

// check looks at the whole story.
func (s *scenario) check() {
	if s.w.failed == nil {
		s.w.check.finish()
	}
	s.printf("every invariant holds")
}
