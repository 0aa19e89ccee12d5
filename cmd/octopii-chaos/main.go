// Command octopii-chaos breaks clusters: it simulates them by seeds, and tells of
// each invariant that does not hold how to see it again.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/octopii/octopii/internal/buildinfo"
)

// Exit statuses: 0 when every invariant held.
const (
	exitBroken = 1
	exitUsage  = 2
	// exitFailed: it could not do what it was asked for, and shows nothing.
	exitFailed = 3
	// exitInterrupted is what shells say of Ctrl-C: all held in what was done.
	exitInterrupted = 130
)

// usageError says that the command line was not understood.
type usageError struct{ error }

var (
	// errBroken was told already.
	errBroken      = errors.New("an invariant does not hold")
	errInterrupted = errors.New("interrupted")
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// interruptible returns a context that ends with the first Ctrl-C or SIGTERM. A
// second Ctrl-C ends the process. A second SIGTERM does not: timeout(1) sends two.
func interruptible(ctx context.Context) (context.Context, func()) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt) })
	return ctx, stop
}

// run executes one command line and returns its exit status. When ctx ends, so do
// the processes that it started.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "octopii-chaos:", err)
	var usage usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(stderr, "run octopii-chaos --help")
		return exitUsage
	case errors.Is(err, errBroken):
		return exitBroken
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "octopii-chaos",
		Short:         "Break clusters and look whether what must hold holds",
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("octopii-chaos has no command %q", args[0])}
			}
			return usageError{errors.New("octopii-chaos needs a command")}
		},
	}
	root.Version = buildinfo.Version()
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newSim())
	return root
}

// noArgs refuses arguments as an error of usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{err}
	}
	return nil
}
