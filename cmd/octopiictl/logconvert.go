package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/octopii/octopii/internal/logtool"
	"github.com/octopii/octopii/internal/vfs"
)

func newLogConvert(opts *options) *cobra.Command {
	var to string
	var keep bool
	cmd := &cobra.Command{
		Use:   "convert --to native|etcd DIR",
		Short: "Move a stopped member's log to the other format",
		Long: `Write the log of a stopped member anew in the other format, compare both entry by
entry, and only then let the new one take the place of the old. The new log begins
at the newest mark of the old one; older marks, and entries before it, are not taken
along. A damaged log is not converted.

However this is interrupted, the member starts with the old log or with the new one,
and the same command goes on where it was.

DIR is the directory of a member, or a data directory of octopiid.`,
		Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			format := logtool.Format(to)
			if format != logtool.Native && format != logtool.Etcd {
				return usageError{fmt.Errorf("--to is %q; use native or etcd", to)}
			}
			bar := newProgress(cmd.ErrOrStderr())
			say := func(text string, args ...any) {
				bar.done()
				text = fmt.Sprintf(text, args...)
				if opts.output == "json" {
					_ = writeLine(cmd.OutOrStdout(), map[string]string{"done": text})
					return
				}
				fmt.Fprintln(cmd.OutOrStdout(), text)
			}
			err := logtool.Convert(logtool.Conversion{FS: vfs.OS, Dir: args[0], To: format, Keep: keep, Say: say, Progress: bar.update})
			bar.done()
			if err == nil {
				say("start octopiid with --wal=%s from now on", format)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the format of the new log: native or etcd")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the old log beside the new one, as NUMBER.old")
	return cmd
}
