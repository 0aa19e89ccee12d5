package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/proto/adminpb"
)

// words refuses other numbers of arguments, and empty ones, as an error of usage.
func words(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.RangeArgs(least, most)(cmd, args); err != nil {
			return usageError{fmt.Errorf("%s: %w; usage: %s", cmd.CommandPath(), err, cmd.UseLine())}
		}
		for _, a := range args {
			if a == "" {
				return usageError{fmt.Errorf("%s: an argument is empty; usage: %s", cmd.CommandPath(), cmd.UseLine())}
			}
		}
		return nil
	}
}

// dryRunFlag adds --dry-run to a command that changes the membership.
func dryRunFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("dry-run", false, "only say what it would lead to, or why it would be refused; change nothing")
}

// newcomer are the flags that describe a new member.
type newcomer struct {
	id, name string
	priority int32
}

func newcomerFlags(cmd *cobra.Command) *newcomer {
	n := &newcomer{}
	cmd.Flags().StringVar(&n.id, "id", "", "its `ID` in hexadecimal, if it does not run yet (default: it is asked)")
	cmd.Flags().StringVar(&n.name, "name", "", "its name, for people (default: its ID)")
	cmd.Flags().Int32Var(&n.priority, "priority", 0, "its rank among the candidates for leadership; higher is preferred")
	return n
}

// at is a new member that listens at an address.
func (n *newcomer) at(address string) (*adminpb.MemberInfo, error) {
	m := &adminpb.MemberInfo{Name: n.name, Priority: n.priority}
	var err error
	if m.Address, err = parseAddress(address); err != nil {
		return nil, err
	}
	if n.id != "" {
		if m.ID, err = parseID(n.id); err != nil {
			return nil, usageError{fmt.Errorf("--id: %w", err)}
		}
	}
	return m, nil
}

// newMemberID is a command whose verb needs a member and nothing else.
func newMemberID(opts *options, verb node.Verb, short, long, example string) *cobra.Command {
	cmd := &cobra.Command{Use: string(verb) + " ID|NAME", Short: short, Long: long, Example: example, Args: words(1, 1)}
	dryRun := dryRunFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return opts.change(cmd, *dryRun, func(ms *adminpb.MembershipInfo) (*adminpb.ChangeMembershipRequest, error) {
			id, err := findMember(ms, args[0])
			return &adminpb.ChangeMembershipRequest{Verb: string(verb), Member: &adminpb.MemberInfo{ID: id}}, err
		})
	}
	return cmd
}

func newMemberAdd(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add ADDRESS",
		Short: "Add the member that listens for its peers at ADDRESS",
		Long: `Add the member that listens for its peers at ADDRESS, as a learner, and make a
voter of it when it has caught up, unless --learner is given. The command waits for
that; if --timeout is over first, the cluster goes on by itself.

A member waits to be added when it was started with octopiid start --wait. One that
was started with --join needs no such command: it adds itself.`,
		Example: `  octopiictl member add 10.0.0.4:2380 --name n4
  octopiictl member add 10.0.0.4:2380 --learner --dry-run`,
		Args: words(1, 1),
	}
	learner := cmd.Flags().Bool("learner", false, "it receives the log and does not vote")
	who, dryRun := newcomerFlags(cmd), dryRunFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := who.at(args[0])
		if err != nil {
			return err
		}
		verb := node.VerbAddVoter
		if *learner {
			verb = node.VerbAddLearner
		}
		return opts.change(cmd, *dryRun, func(*adminpb.MembershipInfo) (*adminpb.ChangeMembershipRequest, error) {
			return &adminpb.ChangeMembershipRequest{Verb: string(verb), Member: m}, nil
		})
	}
	return cmd
}

func newMemberReplace(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replace OLD-ID|OLD-NAME ADDRESS",
		Short: "Have the member that listens at ADDRESS take the place of another one",
		Long: `Have the member that listens for its peers at ADDRESS take the place of another
one, dead or alive: it is brought up to date as a learner, and then one change gives
it a vote and removes the old one, so that there are as many voters all the time.`,
		Example: `  octopiictl member replace n3 10.0.0.4:2380 --name n4`,
		Args:    words(2, 2),
	}
	who, dryRun := newcomerFlags(cmd), dryRunFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := who.at(args[1])
		if err != nil {
			return err
		}
		return opts.change(cmd, *dryRun, func(ms *adminpb.MembershipInfo) (*adminpb.ChangeMembershipRequest, error) {
			old, err := findMember(ms, args[0])
			return &adminpb.ChangeMembershipRequest{Verb: string(node.VerbReplace), Member: m, Old: old}, err
		})
	}
	return cmd
}

func newMemberUpdate(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update ID|NAME ADDRESS",
		Short: "Say where a member listens for its peers now",
		Long: `Say where a member listens for its peers now. A member that comes back elsewhere
calls the others, and they learn it without this command.`,
		Example: `  octopiictl member update n3 10.0.0.7:2380`,
		Args:    words(2, 2),
	}
	dryRun := dryRunFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		address, err := parseAddress(args[1])
		if err != nil {
			return err
		}
		return opts.change(cmd, *dryRun, func(ms *adminpb.MembershipInfo) (*adminpb.ChangeMembershipRequest, error) {
			id, err := findMember(ms, args[0])
			return &adminpb.ChangeMembershipRequest{Verb: string(node.VerbUpdateAddress), Member: &adminpb.MemberInfo{ID: id, Address: address}}, err
		})
	}
	return cmd
}

func newMemberPriority(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "priority ID|NAME PRIORITY",
		Short: "Change a member's rank among the candidates for leadership; higher is preferred",
		Example: `  octopiictl member priority n1 10
  octopiictl member priority n3 -- -1`,
		Args: words(2, 2),
	}
	dryRun := dryRunFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		priority, err := parsePriority(args[1])
		if err != nil {
			return err
		}
		return opts.change(cmd, *dryRun, func(ms *adminpb.MembershipInfo) (*adminpb.ChangeMembershipRequest, error) {
			id, err := findMember(ms, args[0])
			return &adminpb.ChangeMembershipRequest{Verb: string(node.VerbSetPriority), Member: &adminpb.MemberInfo{ID: id, Priority: priority}}, err
		})
	}
	return cmd
}
