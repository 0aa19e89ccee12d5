package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/octopii/octopii/proto/adminpb"
)

// leader is who leads.
type leader struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

var leaderHeader = []string{"LEADER", "NAME"}

func (l leader) columns() []string { return []string{l.ID, l.Name} }

func newLeaderTransfer(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "transfer [ID|NAME]",
		Short: "Let another voter lead; without a name, the best one",
		Long: `Let another voter lead: the one that is named, or the best one, which is that of
the highest priority that has the most of the log. The command waits until it leads.`,
		Example: `  octopiictl leader transfer n2
  octopiictl leader transfer`,
		Args: words(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.administer(cmd, func(ctx context.Context, admin adminpb.AdminClient) error {
				r := &adminpb.TransferLeadershipRequest{}
				var target *adminpb.MemberInfo
				if len(args) > 0 {
					ms, err := admin.Membership(ctx, &adminpb.MembershipRequest{})
					if err != nil {
						return err
					}
					if r.To, err = findMember(ms.Membership, args[0]); err != nil {
						return err
					}
					target = changedMember(&adminpb.ChangeMembershipRequest{Member: &adminpb.MemberInfo{ID: r.To}}, ms.Membership)
				}
				resp, err := admin.TransferLeadership(ctx, r)
				if isOutcomeLost(err) && opts.leads(opts.endpoints, r.To) {
					resp, err = &adminpb.TransferLeadershipResponse{Leader: target}, nil
				}
				if err != nil {
					return err
				}
				row := leader{ID: hex(resp.Leader.ID), Name: resp.Leader.Name}
				if opts.output == "json" {
					return showJSON(cmd.OutOrStdout(), row)
				}
				return show(cmd.OutOrStdout(), opts.output, leaderHeader, []leader{row})
			})
		},
	}
}

// failover is what a cluster does when its leader's process seems dead.
type failover struct {
	Failover string `json:"failover"`
}

func (f failover) columns() []string { return []string{f.Failover} }

// The words for it.
const (
	failoverFast    = "fast"
	failoverTimeout = "timeout"
)

func newLeaderFailover(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "failover [fast|timeout]",
		Short: "What the cluster does when the leader's process seems dead; with a word, set it",
		Long: `Show, or set for all members, what they do when the leader's process seems dead,
as its address refuses connections: with fast, which is the default, they elect another
one at once; with timeout they wait as for a leader that is silent. That is for networks
that refuse connections to members that live.`,
		Example: `  octopiictl leader failover
  octopiictl leader failover timeout`,
		Args: words(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && args[0] != failoverFast && args[0] != failoverTimeout {
				return usageError{fmt.Errorf("failover %q: use %s or %s", args[0], failoverFast, failoverTimeout)}
			}
			return opts.administer(cmd, func(ctx context.Context, admin adminpb.AdminClient) error {
				ms, err := setFailover(ctx, admin, args)
				if err != nil {
					return err
				}
				row := failover{failoverFast}
				if ms.FailoverByTimeout {
					row.Failover = failoverTimeout
				}
				if opts.output == "json" {
					return showJSON(cmd.OutOrStdout(), row)
				}
				return show(cmd.OutOrStdout(), opts.output, []string{"FAILOVER"}, []failover{row})
			})
		},
	}
}

// setFailover sets it if there is a word, and returns the membership with what it is.
func setFailover(ctx context.Context, admin adminpb.AdminClient, args []string) (*adminpb.MembershipInfo, error) {
	if len(args) == 0 {
		resp, err := admin.Membership(ctx, &adminpb.MembershipRequest{})
		if err != nil {
			return nil, err
		}
		return resp.Membership, nil
	}
	resp, err := admin.SetFailover(ctx, &adminpb.SetFailoverRequest{ByTimeout: args[0] == failoverTimeout})
	if err != nil {
		return nil, err
	}
	return resp.Membership, nil
}
