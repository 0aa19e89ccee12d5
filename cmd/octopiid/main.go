// Command octopiid is a replicated key-value store that speaks the etcd v3 API.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/octopii/octopii/internal/buildinfo"
)

// Exit statuses.
const (
	exitFailure = 1
	exitUsage   = 2
)

// failure is an error of a command that was called as it should be. Every other
// error is one of usage.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

func main() {
	ctx, stop := untilSignal(os.Stderr)
	status := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// noArgs is cobra.NoArgs, and says where the commands are listed.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	}
	return nil
}

// run executes one command until it is done or ctx ends, and returns the exit
// status. An error is one line on stderr.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "octopiid",
		Short:         "A replicated key-value store that speaks the etcd v3 API",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(startCommand(environ), devCommand(environ))
	root.Version = buildinfo.Version()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "octopiid:", oneLine(err))
	var failed failure
	if errors.As(err, &failed) {
		return exitFailure
	}
	return exitUsage
}

// oneLine is the text of an error, whose parts may be on lines of their own.
func oneLine(err error) string {
	var parts []string
	for line := range strings.Lines(err.Error()) {
		if words := strings.Fields(line); len(words) > 0 {
			parts = append(parts, strings.Join(words, " "))
		}
	}
	return strings.Join(parts, "; ")
}
