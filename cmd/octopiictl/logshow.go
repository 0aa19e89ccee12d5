package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/spf13/cobra"

	"github.com/octopii/octopii/internal/logtool"
	"github.com/octopii/octopii/internal/vfs"
)

// shower writes a log as it is read, a line for each frame or entry, and keeps
// none of them.
type shower struct {
	w       *bufio.Writer
	json    bool
	entries bool
	// from and to bound the indexes, limit the number of lines; 0: no limit.
	from, to uint64
	limit    int
	lines    int
	// header: it was written.
	header bool
}

func newLogShow(opts *options) *cobra.Command {
	var s shower
	cmd := &cobra.Command{
		Use:   "show DIR",
		Short: "What a log holds, a line for each write, and where it is damaged",
		Long: `Show what a log holds in the order in which it was written, a line for each
write (native) or record (etcd), and at the end what that amounts to; change
nothing. With -o json every line is an object with one key: log, frame, entry or
summary.

` + logDirs,
		Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.from > s.to {
				return usageError{fmt.Errorf("--from is %d and --to is %d: nothing is in between", s.from, s.to)}
			}
			if s.limit < 0 {
				return usageError{fmt.Errorf("--limit is %d; use a number of lines, or 0 for all", s.limit)}
			}
			place, err := logtool.Find(vfs.OS, args[0])
			if err != nil {
				return err
			}
			// A bar would run through the lines.
			bar := newProgress(cmd.ErrOrStderr())
			if isTerminal(cmd.OutOrStdout()) {
				bar = noProgress()
			}
			s.w, s.json = bufio.NewWriter(cmd.OutOrStdout()), opts.output == "json"
			report, err := s.show(place, bar)
			if err != nil {
				return err
			}
			return verdict(&report)
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&s.from, "from", 0, "leave out what ends before this index")
	flags.Uint64Var(&s.to, "to", math.MaxUint64, "leave out what begins behind this index")
	flags.Lookup("to").DefValue = "the last"
	flags.IntVar(&s.limit, "limit", 0, "stop after so many lines; 0: no limit")
	flags.BoolVar(&s.entries, "entries", false, "a line for each entry")
	return cmd
}

func (s *shower) show(place logtool.Place, bar *progress) (logtool.Report, error) {
	s.say("log", place, "log %s (%s)", place.Dir, place.Format)
	report, err := logtool.Read(vfs.OS, place, s.frame, bar.of("reading"))
	bar.done()
	if err != nil {
		_ = s.w.Flush()
		return report, err
	}
	s.say("summary", report, "%s", summaryText(&report))
	if d := report.Damage; d != nil && !s.json {
		fmt.Fprintf(s.w, "DAMAGE: %s\n", damageText(d))
	}
	return report, s.w.Flush()
}

// say writes a line about the whole.
func (s *shower) say(key string, value any, format string, args ...any) {
	if s.json {
		_ = writeLine(s.w, map[string]any{key: value})
		return
	}
	fmt.Fprintf(s.w, format+"\n", args...)
}

// writeLine writes one JSON object on one line.
func writeLine(w io.Writer, value any) error { return json.NewEncoder(w).Encode(value) }

// frame takes the next frame; ErrStop ends the reading. What could not be written
// is found out at the end, by Flush.
func (s *shower) frame(f *logtool.Frame) error {
	if s.entries {
		return f.Each(func(e logtool.Entry) error {
			if e.Index < s.from || e.Index > s.to {
				return nil
			}
			return s.line(f, "entry", e, func() string { return entryLine(f, e) })
		})
	}
	// A frame without entries stands at the end of those before it.
	first, last := f.First, f.Last
	if f.Entries == 0 {
		first, last = f.LogLast, f.LogLast
	}
	if last < s.from || first > s.to {
		return nil
	}
	return s.line(f, "frame", f, func() string { return frameLine(f) })
}

func (s *shower) line(f *logtool.Frame, key string, value any, text func() string) error {
	if s.limit > 0 && s.lines == s.limit {
		return logtool.ErrStop
	}
	s.lines++
	if s.json {
		return writeLine(s.w, map[string]any{key: value})
	}
	if !s.header {
		s.header = true
		header := frameHeader
		if s.entries {
			header = entryHeader
		}
		fmt.Fprintln(s.w, strings.TrimRight(fmt.Sprintf(header, len(f.Segment), "SEGMENT"), " "))
	}
	_, err := fmt.Fprintln(s.w, text())
	return err
}

// The columns are of fixed width, for a table that is laid out at the end would
// have to be kept until then.
const (
	frameHeader = "%-*s      OFFSET      SIZE  SEQUENCE  INDEXES          TERMS    ENTRIES     BYTES  CONF   TERM  VOTE              COMMIT  KINDS"
	frameFormat = "%-*s  %10d  %8d  %8d  %-15s  %-7s  %7d  %8d  %4d  %5d  %-16s  %6d  %s"
	entryHeader = "%-*s      OFFSET       INDEX    TERM     BYTES  TYPE"
	entryFormat = "%-*s  %10d  %10d  %6d  %8d  %s"
)

func frameLine(f *logtool.Frame) string {
	kinds := strings.Join(f.Kinds, ",")
	if len(f.Marks) > 0 {
		kinds += ": " + marksText(f.Marks)
	}
	return fmt.Sprintf(frameFormat, len(f.Segment), f.Segment, f.Offset, f.Size, f.Sequence,
		rangeText(f.First, f.Last), termRange(f.Terms), f.Entries, f.Bytes, f.ConfChanges,
		f.HardState.Term, hex(f.HardState.Vote), f.HardState.Commit, kinds)
}

func entryLine(f *logtool.Frame, e logtool.Entry) string {
	return fmt.Sprintf(entryFormat, len(f.Segment), e.Segment, e.Offset, e.Index, e.Term, e.Bytes, e.Type)
}

func rangeText(first, last uint64) string {
	switch {
	case first == 0:
		return "-"
	case first == last:
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

func termRange(runs []logtool.TermRun) string {
	if len(runs) == 0 {
		return "-"
	}
	return rangeText(runs[0].Term, runs[len(runs)-1].Term)
}

func summaryText(r *logtool.Report) string {
	if r.Partial {
		return fmt.Sprintf("stopped at the limit after %d frames; what follows was not read", r.Frames)
	}
	return fmt.Sprintf("%d frames in %d segments, %d bytes; entries: %s; terms %s; %s; end: %s",
		r.Frames, r.Segments, r.Bytes, entriesText(r), termRange(r.Terms), stateText(r.HardState), endText(r))
}
