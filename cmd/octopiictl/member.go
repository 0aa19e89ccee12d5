package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// member is one member as the cluster knows it.
type member struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"learner"`
}

var memberHeader = []string{"ID", "NAME", "PEERS", "CLIENTS", "LEARNER"}

func (m member) columns() []string {
	return []string{m.ID, m.Name, strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","), strconv.FormatBool(m.Learner)}
}

func newMemberList(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "The members, as a quorum knows them",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, ctx, done, err := opts.connect()
			if err != nil {
				return err
			}
			defer done()
			resp, err := c.MemberList(ctx)
			if err != nil {
				return fmt.Errorf("member list from %v: %w", opts.endpoints, err)
			}
			rows := make([]member, 0, len(resp.Members))
			for _, m := range resp.Members {
				rows = append(rows, member{ID: hex(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner})
			}
			return show(cmd.OutOrStdout(), opts.output, memberHeader, rows)
		},
	}
}
