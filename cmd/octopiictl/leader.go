package main

import (
	"context"

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
				if len(args) > 0 {
					ms, err := admin.Membership(ctx, &adminpb.MembershipRequest{})
					if err != nil {
						return err
					}
					if r.To, err = findMember(ms.Membership, args[0]); err != nil {
						return err
					}
				}
				resp, err := admin.TransferLeadership(ctx, r)
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
