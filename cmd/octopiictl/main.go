// Command octopiictl is the operator's tool: it asks a cluster how it is, changes who
// belongs to it and who leads it, and reads, verifies and converts the log of a member on disk.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/buildinfo"
)

// Exit statuses: a command that was understood and failed is told from one
// that was not understood.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError says that the command line was not understood.
type usageError struct{ error }

// options are the flags that every command has.
type options struct {
	endpoints []string
	output    string
	timeout   time.Duration
	security
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run executes one command line and returns its exit status.
func run(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "octopiictl:", err)
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintln(stderr, "run octopiictl --help")
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	opts := &options{}
	root := group("octopiictl", "Ask an Octopii cluster how it is, change who belongs to it, and look after the logs of its members")
	root.Version = buildinfo.Version()
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return opts.check() }
	flags := root.PersistentFlags()
	flags.StringSliceVar(&opts.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "client addresses of members, separated by commas")
	flags.StringVarP(&opts.output, "output", "o", "table", "table or json")
	flags.DurationVar(&opts.timeout, "timeout", 5*time.Second, "how long to wait for an answer")
	opts.security.addFlags(flags)

	lead := group("leader", "Who leads the cluster")
	lead.AddCommand(newLeaderTransfer(opts), newLeaderFailover(opts))
	root.AddCommand(newStatus(opts), newMember(opts), lead, newLog(opts))
	return root
}

// group is a command that only holds others.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])}
			}
			return usageError{fmt.Errorf("%s needs a command", cmd.CommandPath())}
		},
	}
}

// noArgs refuses arguments as an error of usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{err}
	}
	return nil
}

func (o *options) check() error {
	switch {
	case len(o.endpoints) == 0:
		return usageError{errors.New("--endpoints is empty; name at least one HOST:PORT")}
	case o.output != "table" && o.output != "json":
		return usageError{fmt.Errorf("--output is %q; use table or json", o.output)}
	case o.timeout <= 0:
		return usageError{fmt.Errorf("--timeout is %v; use a positive duration", o.timeout)}
	}
	return o.security.check()
}

// connect returns a client of all endpoints, and a context with the timeout.
// done releases both.
func (o *options) connect() (c *clientv3.Client, ctx context.Context, done func(), err error) {
	c, err = o.client(o.endpoints)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	return c, ctx, func() { cancel(); c.Close() }, nil
}

// client returns a client of some endpoints. The caller closes it.
func (o *options) client(endpoints []string) (*clientv3.Client, error) {
	cfg, err := o.security.config()
	if err != nil {
		return nil, err
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: cfg, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", endpoints, err)
	}
	return c, nil
}
