package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// What a cluster vouches for. A member that would do something by itself which takes a
// copy of the log away, or leaves a cluster, needs more than an error or the word of one
// peer: it asks members of its cluster for a statement behind a barrier: an entry that a
// majority of the voters has written, with everything before it, after the question was
// asked. If the asker runs no Node, the majority is one without it.

// Question is what a member asks its cluster about itself.
type Question struct {
	// Cluster that must answer. 0: any.
	Cluster uint64
	// Member is the asker's ID; 0: it has none, or does not know it any more.
	Member uint64
	// Address and Name are the asker's own.
	Address, Name string
	// Witnesses is at how many addresses the same must be stated, unless one of them proves by
	// Keys to be a member; 0: at one. A stranger in the place of a member that is down may state
	// what he likes: so many as are a majority are not all strangers.
	Witnesses int
	// Keys are those of members of the cluster, as Node.MemberKeys returned them once.
	Keys []uint64
	// nonce is drawn for each time that it is asked.
	nonce []byte
}

// Proof is the statement of a majority of a cluster's voters. It was true at a moment
// between the question and the answer.
type Proof struct {
	// Cluster is transport.SomeCluster if Question.Cluster was 0: that one is told to its
	// own members only.
	Cluster uint64
	Term    uint64
	Leader  uint64
	// Commit is the index of the barrier: a majority has everything up to it.
	Commit uint64
	// IsMember: Question.Member belongs to the cluster. Removed: it did.
	IsMember, Removed bool
	// AtAddress is the member whose record has Question.Address and that was really
	// there, and Named the one that has Question.Name; 0: none.
	AtAddress, Named uint64
	// Members are all members of the cluster, if Question.Cluster named it.
	Members []Member
	// Witness is the address of the member that answered, of several that one who had the most.
	Witness string
	// sealed: the witness proved by one of Question.Keys that it is a member.
	sealed bool
}

// ErrNoProof: no member that was asked could state what a majority knows. Ask again
// later; act on nothing until then.
var ErrNoProof = errors.New("node: no majority of the cluster answered for it")

// Caller is the part of a Transport that SeekProof needs.
type Caller interface {
	Call(ctx context.Context, address string, kind transport.Kind, m transport.Message) ([]byte, error)
}

// SeekProof asks all addresses side by side and returns what so many of them state as the
// question wants. It needs no running Node: by may be a Transport that was started for this.
// The addresses must come from the asker's configuration or from its records, never from a
// peer that called. The error is ErrNoProof with what each of them answered, or ErrRemoved
// where a member refuses the asker because its cluster removed it.
func SeekProof(ctx context.Context, by Caller, q Question, addresses []string) (Proof, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q.nonce = newNonce()
	type answered struct {
		proof Proof
		err   error
	}
	answers := make(chan answered, len(addresses))
	for _, address := range addresses {
		go func() {
			payload, err := by.Call(ctx, address, kindVouch, q.message())
			p, err := readProof(q, address, payload, err)
			answers <- answered{p, err}
		}()
	}
	heard := testimony{need: max(q.Witnesses, 1), of: len(addresses)}
	for range addresses { // all of them: no goroutine outlives the call
		a := <-answers
		if heard.add(a.proof, a.err) {
			cancel()
		}
	}
	return heard.proof()
}

// testimony is what the addresses answered that were asked for a proof.
type testimony struct {
	need, of int
	proofs   []Proof
	why      []string
	removed  bool
	proven   *Proof
}

// add takes one answer, and says whether enough of them agree.
func (t *testimony) add(p Proof, err error) bool {
	switch {
	case t.proven != nil:
	case err != nil:
		t.removed = t.removed || errors.Is(err, ErrRemoved)
		t.why = append(t.why, err.Error())
	default:
		t.proofs = append(t.proofs, p)
		agree := slices.DeleteFunc(slices.Clone(t.proofs), func(o Proof) bool { return !o.agrees(p) })
		if p.sealed {
			agree = []Proof{p}
		}
		if p.sealed || len(agree) >= t.need {
			best := slices.MaxFunc(agree, func(a, b Proof) int { return cmp.Compare(a.Commit, b.Commit) })
			t.proven = &best
		}
	}
	return t.proven != nil
}

// agrees says whether two addresses state the same of the asker. Who is at its address matters of
// one that was removed.
func (p Proof) agrees(o Proof) bool {
	return p.Cluster == o.Cluster && p.IsMember == o.IsMember && p.Removed == o.Removed && (!p.Removed || p.AtAddress == o.AtAddress)
}

func (t *testimony) proof() (Proof, error) {
	switch {
	case t.proven != nil:
		return *t.proven, nil
	case t.removed:
		return Proof{}, ErrRemoved
	case t.of == 0:
		return Proof{}, fmt.Errorf("%w: no address of another member is known", ErrNoProof)
	}
	for _, p := range t.proofs {
		t.why = append(t.why, fmt.Sprintf("%s states it, and %d of %d addresses must", p.Witness, t.need, t.of))
	}
	slices.Sort(t.why)
	return Proof{}, fmt.Errorf("%w: %s", ErrNoProof, strings.Join(slices.Compact(t.why), "; "))
}

func (q Question) message() *octopiipb.VouchRequest {
	return &octopiipb.VouchRequest{Cluster: q.Cluster, Member: q.Member, Address: q.Address, Name: q.Name, Nonce: q.nonce}
}

// readProof reads what a member answered.
func readProof(q Question, address string, payload []byte, err error) (Proof, error) {
	if saysRemoved(err) {
		return Proof{}, ErrRemoved
	}
	if err != nil {
		return Proof{}, err
	}
	var r octopiipb.VouchReply
	if err := r.Unmarshal(payload); err != nil {
		return Proof{}, fmt.Errorf("node: %s answered what cannot be read: %w", address, err)
	}
	switch {
	case r.Code != vouched:
		return Proof{}, fmt.Errorf("%s: %s", address, r.Reason)
	case r.Cluster == 0 || r.Term == 0 || r.Commit == 0:
		return Proof{}, fmt.Errorf("%s states a cluster %x in term %d at index %d, which cannot be", address, PublicClusterID(r.Cluster), r.Term, r.Commit)
	case q.Cluster != 0 && r.Cluster != q.Cluster:
		return Proof{}, fmt.Errorf("%s belongs to cluster %x, not to %x", address, PublicClusterID(r.Cluster), PublicClusterID(q.Cluster))
	}
	seal := r.Seal
	r.Seal = nil
	p := Proof{sealed: sealed(q.Keys, q.message(), &r, seal), Cluster: r.Cluster, Term: r.Term, Leader: r.Leader, Commit: r.Commit, IsMember: r.IsMember, Removed: r.Removed,
		AtAddress: r.AtAddress, Named: r.Named, Witness: address}
	for _, m := range r.Members {
		p.Members = append(p.Members, publicMember(m))
	}
	return p, nil
}

// The codes of a VouchReply, on the wire.
const (
	vouched uint32 = iota
	vouchNone
	vouchNoQuorum
)

// voucher answers questions. All that came before a barrier began share it, and the
// next begins a tick after the last one ended: strangers can ask for no more than that.
type voucher struct {
	mu sync.Mutex
	// waiting are those that the next barrier is for; busy: one is under way, or the
	// pause behind it.
	waiting []vouchAsker
	busy    bool
}

type vouchAsker struct {
	request octopiipb.VouchRequest
	done    func(transport.Message, error)
}

// handleVouch answers a question when a majority has confirmed a barrier, or says why
// it cannot.
func (s service) handleVouch(payload []byte, done func(transport.Message, error)) {
	var req octopiipb.VouchRequest
	if err := req.Unmarshal(payload); err != nil {
		done(nil, fmt.Errorf("vouch request cannot be read: %w", err))
		return
	}
	if err := s.open(); err != nil {
		done(&octopiipb.VouchReply{Code: vouchNone, Reason: err.Error()}, nil)
		return
	}
	if mine := s.cluster.Load(); req.Cluster != 0 && req.Cluster != mine {
		// Anybody may ask, and so it does not name this cluster.
		done(&octopiipb.VouchReply{Code: vouchNone, Reason: "this is a member of another cluster than the one that was asked"}, nil)
		return
	}
	v := s.voucher
	v.mu.Lock()
	full := len(v.waiting) >= vouchAskersMax
	if !full {
		v.waiting = append(v.waiting, vouchAsker{req, done})
	}
	begin := !full && !v.busy
	v.busy = v.busy || begin
	v.mu.Unlock()
	switch {
	case full:
		done(&octopiipb.VouchReply{Code: vouchNoQuorum, Reason: "too many ask at once; ask again"}, nil)
	case begin:
		s.vouch()
	}
}

// vouch makes one barrier for all that wait.
func (s service) vouch() {
	v := s.voucher
	v.mu.Lock()
	askers := v.waiting
	v.waiting = nil
	if len(askers) == 0 {
		v.busy = false
		v.mu.Unlock()
		return
	}
	v.mu.Unlock()
	var once sync.Once
	var limit stepped.Timer
	end := func(index uint64, err error) {
		once.Do(func() {
			limit.Stop()
			for _, a := range askers {
				a.done(s.statement(&a.request, index, err), nil)
			}
			s.host.timer(s.vouch).Reset(s.cfg.TickInterval)
		})
	}
	w := newWaiterFor(func(a answer) { end(a.Index, publicError(a.Err)) })
	// A majority that takes longer than this to confirm has no leader.
	limit = s.host.timer(func() {
		s.inbox.gone(w)
		end(0, errors.New("no majority of the voters confirmed it in time"))
	})
	limit.Reset(2 * s.cfg.TickInterval * time.Duration(s.cfg.ElectionTicks))
	s.inbox.request(vouchBarrier(askers, w))
}

// vouchBarrier is an entry of the log for those that name the cluster: they may put their
// files aside on the answer. Behind an entry a majority has everything before it on disk,
// and the asker, which runs no Node, is not among them. A read says only who leads: of
// those that confirm it some may be behind, and what they lack only the asker may have.
// For whoever asks without naming the cluster nothing is written.
func vouchBarrier(askers []vouchAsker, w *waiter) core.Request {
	if slices.ContainsFunc(askers, func(a vouchAsker) bool { return a.request.Cluster != 0 }) {
		return core.Request{Kind: core.Propose, Data: core.Barrier(), Waiter: w}
	}
	return core.Request{Kind: core.Read, Waiter: w}
}

// statement is what this member says behind a barrier, or why there was none.
func (s service) statement(req *octopiipb.VouchRequest, index uint64, err error) *octopiipb.VouchReply {
	st, ms := s.status(), s.members.Load()
	reply := &octopiipb.VouchReply{Cluster: transport.SomeCluster, Term: st.Term, Leader: st.Leader, Commit: index}
	if req.Cluster != 0 { // else anybody may have asked
		reply.Cluster = s.cluster.Load()
	}
	if err != nil || ms == nil {
		reply.Code, reply.Reason = vouchNoQuorum, "no majority answers"
		if err != nil {
			reply.Reason = err.Error()
		}
		return reply
	}
	reply.IsMember = req.Member != 0 && isMember(ms, req.Member)
	reply.Removed = ms.IsRemoved(req.Member)
	s.describe(reply, req, ms)
	reply.Seal = sealOf(s.identity.Incarnation, req, reply)
	return reply
}

// describe adds what the records say. Incarnations, by which members know each other, are
// told to nobody.
func (s service) describe(reply *octopiipb.VouchReply, req *octopiipb.VouchRequest, ms *octopiipb.Membership) {
	for _, m := range ms.Members {
		if req.Address != "" && m.Address == req.Address && s.wasThere(&m) {
			reply.AtAddress = m.ID
		}
		if req.Name != "" && m.Name == req.Name {
			reply.Named = m.ID
		}
		if req.Cluster != 0 { // who does not know the cluster is told no addresses
			m.Incarnation = 0
			reply.Members = append(reply.Members, m)
		}
	}
}
