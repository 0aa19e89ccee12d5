package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/proto/adminpb"
)

// member is one member as the cluster knows it.
type member struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"learner"`
	Priority   int32    `json:"priority"`
}

var memberHeader = []string{"ID", "NAME", "PEERS", "CLIENTS", "LEARNER", "PRIORITY"}

func (m member) columns() []string {
	return []string{m.ID, m.Name, strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","),
		strconv.FormatBool(m.Learner), strconv.Itoa(int(m.Priority))}
}

func newMember(opts *options) *cobra.Command {
	cmd := group("member", "Who belongs to the cluster")
	cmd.AddCommand(
		newMemberList(opts),
		newMemberAdd(opts),
		newMemberID(opts, node.VerbRemove, "Take a member out of the cluster, for ever",
			`Take a member out of the cluster, for ever: its ID is never used again, and its
octopiid ends. A leader hands leadership over first. What would leave a majority of
voters that are silent is refused.`,
			"  octopiictl member remove n3 --dry-run\n  octopiictl member remove 8e9e05c52164694d"),
		newMemberID(opts, node.VerbPromote, "Make a voter of a learner",
			`Make a voter of a learner. One that is silent, or too far behind, is refused.`,
			"  octopiictl member promote n4"),
		newMemberID(opts, node.VerbDemote, "Make a learner of a voter",
			`Make a learner of a voter. A leader hands leadership over first. What would leave a
majority of voters that are silent is refused.`,
			"  octopiictl member demote n3 --dry-run"),
		newMemberReplace(opts),
		newMemberUpdate(opts),
		newMemberPriority(opts),
	)
	return cmd
}

func newMemberList(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "The members, as a quorum knows them",
		Example: "  octopiictl --endpoints 10.0.0.1:2379,10.0.0.2:2379 member list -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return opts.ask(cmd, func(ctx context.Context, c *clientv3.Client) error {
				rows, err := listMembers(ctx, c)
				if err != nil {
					return err
				}
				return show(cmd.OutOrStdout(), opts.output, memberHeader, rows)
			})
		},
	}
}

// listMembers asks for URLs, which etcd's call has, and for priorities, which it does
// not have.
func listMembers(ctx context.Context, c *clientv3.Client) ([]member, error) {
	resp, err := c.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	ms, err := adminpb.NewAdminClient(c.ActiveConnection()).Membership(ctx, &adminpb.MembershipRequest{})
	if err != nil {
		return nil, err
	}
	priorities := make(map[uint64]int32, len(resp.Members))
	for _, m := range ms.Membership.Members {
		priorities[m.ID] = m.Priority
	}
	rows := make([]member, 0, len(resp.Members))
	for _, m := range resp.Members {
		rows = append(rows, member{
			ID: hex(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner, Priority: priorities[m.ID],
		})
	}
	return rows, nil
}
