package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// memberStatus is what one endpoint says of itself, or why it did not answer.
type memberStatus struct {
	Endpoint string `json:"endpoint"`
	ID       string `json:"id,omitempty"`
	// Cluster is the public ID of its cluster.
	Cluster string `json:"cluster,omitempty"`
	Name    string `json:"name,omitempty"`
	Role    string `json:"role,omitempty"`
	Leader  string `json:"leader,omitempty"`
	Term    uint64 `json:"term,omitempty"`
	Index   uint64 `json:"index,omitempty"`
	Applied uint64 `json:"applied,omitempty"`
	Version string `json:"version,omitempty"`
	// Error says why it did not answer, and Problems what it says is wrong.
	Error    string   `json:"error,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

var statusHeader = []string{"ENDPOINT", "ID", "NAME", "ROLE", "LEADER", "TERM", "INDEX", "APPLIED", "VERSION", "ERROR"}

func (s memberStatus) columns() []string {
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	return []string{s.Endpoint, s.ID, s.Name, s.Role, s.Leader, n(s.Term), n(s.Index), n(s.Applied), s.Version, s.Error}
}

func newStatus(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "What each endpoint says of itself; fails if one does not answer, or has a problem",
		Long: `What each endpoint says of itself. Below the table is what is wrong by the word of an
endpoint: that it knows no leader, which members are missing for a majority, that a
majority forgot. The command fails if an endpoint does not answer, or has a problem.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, ctx, done, err := opts.connect()
			if err != nil {
				return err
			}
			defer done()
			rows := opts.statusOfAll(ctx, c)
			nameRows(c, rows)
			if err := show(cmd.OutOrStdout(), opts.output, statusHeader, rows); err != nil {
				return err
			}
			if opts.output == "table" {
				showProblems(cmd.OutOrStdout(), rows)
			}
			return unhealthy(rows)
		},
	}
}

// statusOfAll asks all endpoints at once: one that is dead must not use up the
// time of the others.
func (o *options) statusOfAll(ctx context.Context, c *clientv3.Client) []memberStatus {
	rows := make([]memberStatus, len(o.endpoints))
	var wg sync.WaitGroup
	for i, endpoint := range o.endpoints {
		wg.Go(func() { rows[i] = o.statusOf(ctx, c, endpoint) })
	}
	wg.Wait()
	tellClustersApart(rows)
	return rows
}

// tellClustersApart adds a problem to endpoints that are of another cluster than the first one
// that answered.
func tellClustersApart(rows []memberStatus) {
	first := -1
	for i := range rows {
		r := &rows[i]
		switch {
		case r.Cluster == "":
		case first < 0:
			first = i
		case r.Cluster != rows[first].Cluster:
			r.Problems = append(r.Problems, fmt.Sprintf("it is of cluster %s, and %s is of cluster %s: what one of the two acknowledged the other does not have", r.Cluster, rows[first].Endpoint, rows[first].Cluster))
		}
	}
}

// nameRows adds what members are called, if one of them says so soon.
func nameRows(c *clientv3.Client, rows []memberStatus) {
	ctx, cancel := context.WithTimeout(context.Background(), explainTimeout)
	defer cancel()
	list, err := c.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return
	}
	names := make(map[string]string, len(list.Members))
	for _, m := range list.Members {
		names[hex(m.ID)] = m.Name
	}
	for i := range rows {
		rows[i].Name = names[rows[i].ID]
	}
}

func (o *options) statusOf(ctx context.Context, c *clientv3.Client, endpoint string) memberStatus {
	resp, err := c.Status(ctx, endpoint)
	if err != nil {
		return memberStatus{Endpoint: endpoint, Error: o.whyUnanswered(endpoint, err)}
	}
	s := memberStatus{
		Endpoint: endpoint,
		ID:       hex(resp.Header.GetMemberId()),
		Cluster:  clusterOf(resp.Header.GetClusterId()),
		Role:     "follower",
		Term:     resp.RaftTerm,
		Index:    resp.RaftIndex,
		Applied:  resp.RaftAppliedIndex,
		Version:  resp.Version,
	}
	for _, text := range resp.Errors {
		s.Problems = append(s.Problems, strings.TrimPrefix(text, "octopii: "))
	}
	if resp.Leader != 0 {
		s.Leader = hex(resp.Leader)
	}
	switch {
	case resp.IsLearner:
		s.Role = "learner"
	case resp.Leader != 0 && resp.Leader == resp.Header.GetMemberId():
		s.Role = "leader"
	}
	return s
}

// clusterOf is what a member says of its cluster; "" for one that has none.
func clusterOf(id uint64) string {
	if id == 0 {
		return ""
	}
	return hex(id)
}

// whyUnanswered says what stands between this program and an endpoint. gRPC tries again
// until the time is over, and then says no more than that.
func (o *options) whyUnanswered(endpoint string, err error) string {
	if found := o.security.probe(endpoint); found != nil {
		return found.Error()
	}
	if isDeadline(err) {
		return "it takes connections and answers nothing: is it a client address?"
	}
	return err.Error()
}

func isDeadline(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}

// showProblems writes a line for each problem.
func showProblems(w io.Writer, rows []memberStatus) {
	for _, r := range rows {
		for _, problem := range r.Problems {
			fmt.Fprintf(w, "%s: %s\n", r.Endpoint, problem)
		}
	}
}

// unhealthy is an error when an endpoint did not answer, or has a problem.
func unhealthy(rows []memberStatus) error {
	silent, troubled := 0, 0
	for _, r := range rows {
		switch {
		case r.Error != "":
			silent++
		case len(r.Problems) > 0:
			troubled++
		}
	}
	switch {
	case silent > 0:
		return fmt.Errorf("status: %d of %d endpoints did not answer", silent, len(rows))
	case troubled > 0:
		return fmt.Errorf("status: %d of %d endpoints have problems", troubled, len(rows))
	}
	return nil
}

// explain asks every endpoint how it is, after one gave no answer to something else, and
// returns what they say.
func (o *options) explain(c *clientv3.Client) string {
	ctx, cancel := context.WithTimeout(context.Background(), min(o.timeout, explainTimeout))
	defer cancel()
	var says []string
	leader := false
	for _, r := range o.statusOfAll(ctx, c) {
		leader = leader || r.Leader != ""
		switch {
		case r.Error != "":
			says = append(says, fmt.Sprintf("%s does not answer (%s)", r.Endpoint, r.Error))
		case len(r.Problems) > 0:
			says = append(says, fmt.Sprintf("%s says: %s", r.Endpoint, strings.Join(r.Problems, "; ")))
		default:
			says = append(says, fmt.Sprintf("%s answers, and knows the leader %s", r.Endpoint, r.Leader))
		}
	}
	text := strings.Join(says, "; ")
	if !leader {
		text = "no endpoint knows a leader: " + text
	}
	return text
}

// explainTimeout bounds what is asked only to say more: explain, and nameRows.
const explainTimeout = 2 * time.Second
