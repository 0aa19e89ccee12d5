package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// memberStatus is what one endpoint says of itself, or why it did not answer.
type memberStatus struct {
	Endpoint string `json:"endpoint"`
	ID       string `json:"id,omitempty"`
	Role     string `json:"role,omitempty"`
	Leader   string `json:"leader,omitempty"`
	Term     uint64 `json:"term,omitempty"`
	Index    uint64 `json:"index,omitempty"`
	Applied  uint64 `json:"applied,omitempty"`
	Version  string `json:"version,omitempty"`
	Error    string `json:"error,omitempty"`
}

var statusHeader = []string{"ENDPOINT", "ID", "ROLE", "LEADER", "TERM", "INDEX", "APPLIED", "VERSION", "ERROR"}

func (s memberStatus) columns() []string {
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	return []string{s.Endpoint, s.ID, s.Role, s.Leader, n(s.Term), n(s.Index), n(s.Applied), s.Version, s.Error}
}

func newStatus(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "What each endpoint says of itself; fails if one does not answer",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, ctx, done, err := opts.connect()
			if err != nil {
				return err
			}
			defer done()
			rows := statusOfAll(ctx, c, opts.endpoints)
			if err := show(cmd.OutOrStdout(), opts.output, statusHeader, rows); err != nil {
				return err
			}
			return unanswered(rows)
		},
	}
}

// statusOfAll asks all endpoints at once: one that is dead must not use up the
// time of the others.
func statusOfAll(ctx context.Context, c *clientv3.Client, endpoints []string) []memberStatus {
	rows := make([]memberStatus, len(endpoints))
	var wg sync.WaitGroup
	for i, endpoint := range endpoints {
		wg.Go(func() { rows[i] = statusOf(ctx, c, endpoint) })
	}
	wg.Wait()
	return rows
}

func statusOf(ctx context.Context, c *clientv3.Client, endpoint string) memberStatus {
	resp, err := c.Status(ctx, endpoint)
	if err != nil {
		return memberStatus{Endpoint: endpoint, Error: err.Error()}
	}
	s := memberStatus{
		Endpoint: endpoint,
		ID:       hex(resp.Header.GetMemberId()),
		Role:     "follower",
		Term:     resp.RaftTerm,
		Index:    resp.RaftIndex,
		Applied:  resp.RaftAppliedIndex,
		Version:  resp.Version,
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

// unanswered is an error when an endpoint did not answer.
func unanswered(rows []memberStatus) error {
	silent := 0
	for _, r := range rows {
		if r.Error != "" {
			silent++
		}
	}
	if silent == 0 {
		return nil
	}
	return fmt.Errorf("status: %d of %d endpoints did not answer", silent, len(rows))
}
