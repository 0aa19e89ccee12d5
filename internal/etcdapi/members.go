package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/node"
)

// answerMargin is kept of a client's time, so that what is known when a change takes
// too long still reaches it.
const answerMargin = 500 * time.Millisecond

// inTime returns a context that ends before the client has stopped listening.
func inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/10, answerMargin)))
}

// membership is who belongs to the cluster, as a quorum knows it.
func (s *server) membership(ctx context.Context) (node.Membership, error) {
	if err := s.barrier(ctx); err != nil {
		return node.Membership{}, err
	}
	return s.cfg.Node.Status().Membership, nil
}

// memberCodes are for calls that change who belongs or leads, and may succeed at another
// time or elsewhere. All else is a refusal, with its reason.
var memberCodes = []struct {
	is   error
	code codes.Code
}{
	{node.ErrIDReused, codes.AlreadyExists},
	{node.ErrMembershipBusy, codes.Unavailable},
	{node.ErrRemoved, codes.Unavailable},
	{node.ErrClosed, codes.Unavailable},
	{node.ErrOverloaded, codes.ResourceExhausted},
	{node.ErrNoSpace, codes.ResourceExhausted},
	// As etcd has it: on DeadlineExceeded its client would ask again.
	{context.DeadlineExceeded, codes.Unavailable},
	{node.ErrNotCommitted, codes.Unavailable},
	{node.ErrUnknownOutcome, codes.Unavailable},
}

// failed is the answer to a change of membership, or a transfer, that failed with err:
// all that the node said of it, as an operator needs it.
func (s *server) failed(ctx context.Context, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	code, text := codes.FailedPrecondition, err.Error()
	for _, c := range memberCodes {
		if errors.Is(err, c.is) {
			code = c.code
			break
		}
	}
	st := s.cfg.Node.Status()
	switch {
	case errors.Is(err, node.ErrUninitialized):
		return errUninitialized
	case errors.Is(err, context.DeadlineExceeded) && st.Leader == 0:
		text = "octopii: this member knows of no leader, and nothing changes without one: " + text
	case errors.Is(err, node.ErrRemoved) && st.Role != node.Uninitialized && s.barrier(ctx) == nil:
		code = codes.Aborted // not this member was removed, but the one that was to be added
	case errors.Is(err, node.ErrRemoved):
		text = "octopii: the member that was asked was removed from its cluster meanwhile, and cannot tell what came of this; ask another one: octopiictl member list"
	case errors.Is(err, node.ErrNobodyThere):
		text += "; a member is started with octopiid start --join and adds itself, or with --wait and is added"
	}
	return status.Error(code, text)
}

// peerAddress reads the one URL at which a member listens for its peers. A scheme is
// not kept: whether members use TLS is the same for all of them.
func peerAddress(urls []string) (string, error) {
	if len(urls) != 1 {
		return "", fmt.Errorf("a member has one peer URL, and not %d", len(urls))
	}
	u, err := url.Parse(urls[0])
	switch {
	case err != nil:
		return "", err
	case u.Scheme != "http" && u.Scheme != "https", u.User != nil, u.Path != "", u.RawQuery != "", u.Fragment != "":
		return "", fmt.Errorf("%q is not like http://HOST:PORT", urls[0])
	}
	return u.Host, checkAddress(u.Host)
}

// checkAddress says what is wrong with where a member is to listen for its peers.
func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return fmt.Errorf("the address %q is not like HOST:PORT", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("the address %q has no port that can be dialed", address)
	}
	return nil
}

// at returns the member that listens at an address.
func at(address string, ms node.Membership) (node.Member, bool) {
	return first(ms, func(m node.Member) bool { return m.Address == address })
}

// added returns who is new in after. Others may have been added meanwhile, and the new
// member may call itself something else than the address by which it was added.
func added(address string, before, after node.Membership) (node.Member, bool) {
	isNew := func(m node.Member) bool { _, old := before.Member(m.ID); return !old }
	if m, ok := first(after, func(m node.Member) bool { return isNew(m) && m.Address == address }); ok {
		return m, true
	}
	return first(after, isNew)
}

func first(ms node.Membership, is func(node.Member) bool) (node.Member, bool) {
	i := slices.IndexFunc(ms.Members, is)
	if i < 0 {
		return node.Member{}, false
	}
	return ms.Members[i], true
}
