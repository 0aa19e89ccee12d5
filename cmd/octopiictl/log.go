package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/octopii/octopii/internal/logtool"
	"github.com/octopii/octopii/internal/vfs"
)

const logDirs = `DIR is the directory of a member, a data directory of octopiid, or the
directory of one log. The log is read from disk, in the native format or etcd's;
no member is asked.`

func newLog(opts *options) *cobra.Command {
	log := group("log", "The log of a member, on its disk")
	log.AddCommand(newLogShow(opts), newLogVerify(opts), newLogConvert(opts))
	return log
}

// oneDir takes exactly one argument.
func oneDir(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("%s needs one directory, and got %d", cmd.CommandPath(), len(args))}
	}
	return nil
}

func newLogVerify(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR",
		Short: "Read a whole log and say whether anything is lost",
		Long: `Read a whole log, every checksum of it, and in a member's directory also the
snapshot at which it begins; change nothing, and say what is there. A torn last
write, which nobody was told of, is no damage.

` + logDirs,
		Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			place, err := logtool.Find(vfs.OS, args[0])
			if err != nil {
				return err
			}
			bar := newProgress(cmd.ErrOrStderr())
			report, err := logtool.Verify(vfs.OS, place, bar.of("reading"))
			bar.done()
			if err != nil {
				return err
			}
			if opts.output == "json" {
				err = writeLine(cmd.OutOrStdout(), report)
			} else {
				err = writeReport(cmd.OutOrStdout(), &report)
			}
			if err != nil {
				return err
			}
			return verdict(&report)
		},
	}
}

// verdict is an error when a log has lost something.
func verdict(r *logtool.Report) error {
	err := r.Err()
	if err != nil && logtool.InUse(vfs.OS, r.Place) {
		return fmt.Errorf("%w (a process runs this member, and what it is writing may look like damage: stop it and try again)", err)
	}
	return err
}

func writeReport(w io.Writer, r *logtool.Report) error {
	rows := [][2]string{{"log", fmt.Sprintf("%s (%s)", r.Dir, r.Format)}}
	add := func(name, format string, args ...any) {
		rows = append(rows, [2]string{name, fmt.Sprintf(format, args...)})
	}
	if r.Owner != nil {
		add("member", "%s %s, in %s", hex(r.Owner.ID), r.Owner.Name, r.Member)
	}
	add("segments", "%d with %d bytes, and %d spare", r.Segments, r.Bytes, r.Spares)
	add("frames", "%d", r.Frames)
	add("entries", "%s; %d bytes of data and %d conf changes with those that were replaced", entriesText(r), r.EntryBytes, r.ConfChanges)
	add("terms", "%s", termsText(r.Terms))
	add("marks", "%s", marksText(r.Marks))
	add("hard state", "%s", stateText(r.HardState))
	if s := r.Snapshot; s != nil {
		kind := "whole"
		if s.External {
			kind = "of a state machine that keeps its own data"
		}
		add("snapshot", "index %d of term %d, %d bytes, %s", s.Index, s.Term, s.Bytes, kind)
	}
	add("end", "%s", endText(r))
	if d := r.Damage; d != nil {
		add("damage", "%s", damageText(d))
	}
	for _, p := range r.Problems {
		add("problem", "%s", p)
	}
	result := "whole"
	if !r.Whole() {
		result = "DAMAGED"
	}
	add("result", "%s", result)
	for _, row := range rows {
		if _, err := fmt.Fprintf(w, "%-10s  %s\n", row[0], row[1]); err != nil {
			return err
		}
	}
	return nil
}

func entriesText(r *logtool.Report) string {
	text := "none"
	if r.Entries > 0 {
		text = fmt.Sprintf("%d, from %d to %d", r.Entries, r.First, r.Last)
	}
	if r.Replaced > 0 {
		text += fmt.Sprintf(", and %d that were replaced", r.Replaced)
	}
	return text
}

// listMax is how many of a list are shown, of which the last ones matter most.
const listMax = 8

// listText joins the last words of a list.
func listText[T any](all []T, text func(T) string) string {
	if len(all) == 0 {
		return "none"
	}
	var words []string
	if more := len(all) - listMax; more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
		all = all[more:]
	}
	for _, x := range all {
		words = append(words, text(x))
	}
	return strings.Join(words, ", ")
}

func termsText(runs []logtool.TermRun) string {
	return listText(runs, func(r logtool.TermRun) string { return fmt.Sprintf("%d from %d", r.Term, r.First) })
}

func marksText(marks []logtool.Mark) string {
	return listText(marks, func(m logtool.Mark) string { return fmt.Sprintf("%d of term %d", m.Index, m.Term) })
}

func stateText(hs logtool.HardState) string {
	return fmt.Sprintf("term %d, vote %s, commit %d", hs.Term, hex(hs.Vote), hs.Commit)
}

func endText(r *logtool.Report) string {
	switch {
	case r.Partial:
		return "not read"
	case r.Damage != nil && !r.Torn:
		return "not reached"
	case r.Torn:
		return "torn, in " + r.TornAt + "; it will be cut off there"
	case r.Ended:
		return "whole, with an end mark that proves it"
	case r.Format == logtool.Etcd:
		return "whole, as far as this format can tell"
	}
	return "whole, without an end mark: the process ended while it was writing"
}

func damageText(d *logtool.Damage) string {
	lost := fmt.Sprintf("entries after %d", d.Intact)
	if d.Known > d.Intact {
		lost = fmt.Sprintf("entries %d to %d", d.Intact+1, d.Known)
	}
	return fmt.Sprintf("%s at offset %s: %s; %s cannot be trusted", d.Segment, strconv.FormatInt(d.Offset, 10), d.Reason, lost)
}
