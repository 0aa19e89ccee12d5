package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/proto/adminpb"
)

// changed is what a change of membership did, or would do.
type changed struct {
	Verb string `json:"verb"`
	// Member is empty if it could not be found out.
	Member   string      `json:"member,omitempty"`
	Replaces string      `json:"replaces,omitempty"`
	DryRun   bool        `json:"dryRun"`
	Before   *membership `json:"before"`
	// After is missing if a dry run is refused, and Refused says why.
	After   *membership `json:"after,omitempty"`
	Refused string      `json:"refused,omitempty"`
}

// membership is who belongs to the cluster at one moment.
type membership struct {
	Index   uint64   `json:"index"`
	Voters  int      `json:"voters"`
	Quorum  int      `json:"quorum"`
	MayFail int      `json:"mayFail"`
	Joint   bool     `json:"joint"`
	Members []record `json:"members"`
}

type record struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Address  string `json:"address"`
	Learner  bool   `json:"learner"`
	Priority int32  `json:"priority"`
}

func readMembership(m *adminpb.MembershipInfo) *membership {
	if m == nil {
		return nil
	}
	ms := &membership{
		Index: m.Index, Voters: int(m.Voters), Quorum: int(m.Quorum), MayFail: int(m.Voters) - int(m.Quorum), Joint: m.Joint,
		Members: []record{},
	}
	for _, o := range m.Members {
		ms.Members = append(ms.Members, record{ID: hex(o.ID), Name: o.Name, Address: o.Address, Learner: o.Learner, Priority: o.Priority})
	}
	return ms
}

// moment is one line of the table that shows a change.
type moment struct {
	when string
	*membership
}

var momentHeader = []string{"WHEN", "VOTERS", "QUORUM", "MAY-FAIL", "VOTING", "LEARNING"}

func (m moment) columns() []string {
	var voting, learning []string
	for _, r := range m.Members {
		name := r.Name
		if name == "" {
			name = r.ID
		}
		if r.Learner {
			learning = append(learning, name)
		} else {
			voting = append(voting, name)
		}
	}
	return []string{m.when, strconv.Itoa(m.Voters), strconv.Itoa(m.Quorum), strconv.Itoa(m.MayFail),
		strings.Join(voting, ","), strings.Join(learning, ",")}
}

func (c changed) show(w io.Writer, format string) error {
	if format == "json" {
		return showJSON(w, c)
	}
	rows := []moment{{"before", c.Before}}
	if c.After != nil {
		rows = append(rows, moment{"after", c.After})
	}
	return show(w, format, momentHeader, rows)
}

// change runs one of the verbs of command member: request says what to ask for, given
// the members there are.
func (o *options) change(cmd *cobra.Command, dryRun bool, request func(ms *adminpb.MembershipInfo) (*adminpb.ChangeMembershipRequest, error)) error {
	return o.ask(cmd, func(ctx context.Context, c *clientv3.Client) error {
		admin := adminpb.NewAdminClient(c.ActiveConnection())
		ms, err := admin.Membership(ctx, &adminpb.MembershipRequest{})
		if err != nil {
			return err
		}
		r, err := request(ms.Membership)
		if err != nil {
			return err
		}
		r.DryRun = dryRun
		endpoints := slices.Concat(o.endpoints, o.clientURLs(ctx, c))
		resp, err := admin.ChangeMembership(ctx, r)
		if isOutcomeLost(err) && !dryRun {
			if done := o.outcome(endpoints, r, ms.Membership); done != nil {
				resp, err = done, nil
			}
		}
		if err != nil {
			return err
		}
		if resp.Warning != "" {
			fmt.Fprintln(cmd.ErrOrStderr(), "octopiictl: warning:", resp.Warning)
		}
		answer := changed{
			Verb: r.Verb, Member: idOrNone(resp.Member), Replaces: idOrNone(r.Old), DryRun: dryRun,
			Before: readMembership(resp.Before), After: readMembership(resp.After), Refused: resp.Refused,
		}
		if err := answer.show(cmd.OutOrStdout(), o.output); err != nil {
			return err
		}
		if answer.Refused != "" {
			return fmt.Errorf("it would be refused: %s", answer.Refused)
		}
		return nil
	})
}

// administer asks the administration of a cluster for something.
func (o *options) administer(cmd *cobra.Command, ask func(context.Context, adminpb.AdminClient) error) error {
	return o.ask(cmd, func(ctx context.Context, c *clientv3.Client) error {
		return ask(ctx, adminpb.NewAdminClient(c.ActiveConnection()))
	})
}

// ask connects, and says of an error what was asked of whom; where there was no answer, what
// every endpoint says of itself.
func (o *options) ask(cmd *cobra.Command, ask func(context.Context, *clientv3.Client) error) error {
	c, ctx, done, err := o.connect()
	if err != nil {
		return err
	}
	defer done()
	by, err := o.serving(c)
	if err != nil {
		return err
	}
	if by != c {
		defer by.Close()
	}
	if err = ask(ctx, by); err == nil {
		return nil
	}
	what := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
	code, text := status.Code(err), err.Error()
	if st, ok := status.FromError(err); ok {
		text = st.Message()
	}
	switch {
	case code == codes.InvalidArgument:
		return usageError{fmt.Errorf("%s: %s", what, text)}
	case isDeadline(err):
		text = fmt.Sprintf("no answer within %v; a change that was asked for may have been made, or may yet be; %s", o.timeout, o.explain(c))
	case code == codes.Unavailable:
		text += "; " + o.explain(c)
	}
	return fmt.Errorf("%s on %s: %s", what, strings.Join(o.endpoints, ","), text)
}

// serving returns a client of the first endpoint that answers for its cluster: one that is not
// part of it yet, or serves nothing, would refuse, though another one does not. It is c, of all
// endpoints, where there is only one, or none answers soon.
func (o *options) serving(c *clientv3.Client) (*clientv3.Client, error) {
	if len(o.endpoints) == 1 {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(o.timeout, explainTimeout))
	defer cancel()
	answers := make(chan string)
	for _, endpoint := range o.endpoints {
		go func() {
			if answersMembership(ctx, c, endpoint) != nil {
				endpoint = ""
			}
			answers <- endpoint
		}()
	}
	first := ""
	for range o.endpoints {
		if endpoint := <-answers; first == "" && endpoint != "" {
			first = endpoint
			cancel()
		}
	}
	if first == "" {
		return c, nil
	}
	return o.client([]string{first})
}

func answersMembership(ctx context.Context, c *clientv3.Client, endpoint string) error {
	conn, err := c.Dial(endpoint)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = adminpb.NewAdminClient(conn).Membership(ctx, &adminpb.MembershipRequest{})
	return err
}

func idOrNone(id uint64) string {
	if id == 0 {
		return ""
	}
	return hex(id)
}

// findMember returns the ID of the member that a word names: by its ID, or by its name
// if no other has it.
func findMember(ms *adminpb.MembershipInfo, word string) (uint64, error) {
	id, notID := parseID(word)
	var named []string
	var found uint64
	for _, m := range ms.Members {
		if notID == nil && m.ID == id {
			return id, nil
		}
		if m.Name == word {
			named, found = append(named, hex(m.ID)), m.ID
		}
	}
	switch len(named) {
	case 0:
		return 0, fmt.Errorf("there is no member %q, neither by ID nor by name; octopiictl member list has them", word)
	case 1:
		return found, nil
	}
	return 0, fmt.Errorf("%q is the name of the members %s; use an ID", word, strings.Join(named, " and "))
}

// parseID reads an ID as hex writes it.
func parseID(s string) (uint64, error) {
	id, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64)
	if err != nil || id == 0 {
		return 0, fmt.Errorf("%q is no ID; use hexadecimal, as octopiictl member list shows it", s)
	}
	return id, nil
}

// parseAddress reads where a member listens for its peers, also as a URL, as member
// list shows it.
func parseAddress(s string) (string, error) {
	address := strings.TrimPrefix(strings.TrimPrefix(s, "http://"), "https://")
	host, port, err := net.SplitHostPort(address)
	n, badPort := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" || badPort != nil || n == 0 {
		return "", usageError{fmt.Errorf("%q is not where a member listens for its peers; use HOST:PORT", s)}
	}
	return address, nil
}

func parsePriority(s string) (int32, error) {
	p, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, usageError{fmt.Errorf("the priority %q is no number of 32 bits", s)}
	}
	return int32(p), nil
}
