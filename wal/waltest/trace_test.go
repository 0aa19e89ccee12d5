package waltest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/octopii/octopii/internal/vfs/vfstest"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/trace.txt anew; then read the diff")

// TestGoldenTrace shows what the native log does to the disk, and in which
// order: a lost sync is a line that is missing.
func TestGoldenTrace(t *testing.T) {
	mem := newMem(t)
	var b strings.Builder
	s := &subject{dir: dir}
	trace := func(mem *vfstest.Mem) {
		renamed := renames{}
		s.backend = nativeOf(vfstest.NewFaulty(mem, func(op vfstest.Op) error {
			op.Path = renamed.now(op)
			switch op.Kind {
			case vfstest.Read, vfstest.Size, vfstest.Stat, vfstest.ReadDir:
			default:
				fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(op.String(), filepath.Dir(dir)+"/", ""))
			}
			return nil
		}), segmentBytes)
	}
	trace(mem)
	step := func(what string, do func() error) {
		t.Helper()
		fmt.Fprintf(&b, "%s\n", what)
		check(t, do())
	}
	step("create", func() error { return s.create(1) })
	step("append one entry", func() error { return s.add(10) })
	step("append three entries, of two blocks", func() error { return s.add(3000, 1000, 2000) })
	step("append a commit index", s.commit)
	step("idle", s.idle)
	step("idle again", s.idle)
	step("append over the end mark", func() error { return s.replace(1, 100) })
	step("reserve", s.reserve)
	step("reserve again", s.reserve)
	step("append what begins the reserved segment", func() error { return s.add(30000) })
	step("append what needs a segment that was not reserved", func() error { return s.add(30000) })
	b.WriteString("append a commit index\n")
	check(t, s.commit())
	step("mark", func() error { return s.setMark(s.done.last()) })
	step("release two segments: they are used again", s.release)
	step("append what begins a segment that was used before", func() error { return s.add(30000) })
	step("append what is larger than a segment", func() error { return s.add(70000) })
	step("append what begins another", func() error { return s.add(10) })
	step("close", s.close)
	step("list the marks and open", s.open)
	step("append one entry", func() error { return s.add(10) })
	step("close", s.close)

	b.WriteString("(the power is lost in the middle of the next append)\n")
	before := s.now()
	torn := mem
	faulty := vfstest.NewFaulty(mem, func(op vfstest.Op) error {
		if op.Kind == vfstest.Sync && torn == mem {
			n := 0
			torn = mem.CrashBy(func(outcomes int) int { n++; return n % 2 * (outcomes - 1) }) // every other sector
		}
		return nil
	})
	s.backend = nativeOf(faulty, segmentBytes)
	check(t, s.open())
	torn = mem
	check(t, s.add(5000))
	check(t, s.close())
	s.done, s.created = before.done, true
	s.batches = nil
	trace(torn)
	step("list the marks and open", func() error {
		got, l, err := recoverLog(s.backend, s.dir)
		if err == nil && got.state.Last > before.done.last() {
			t.Error("the append was not torn: choose another seed")
		}
		s.log = l
		if err == nil && len(got.entries) == 0 && got.mark.Index == 0 {
			t.Error("nothing is there")
		}
		return err
	})
	step("append one entry", func() error { return s.add(10) })
	step("close", s.close)

	const golden = "testdata/trace.txt"
	if *rewrite {
		check(t, os.MkdirAll("testdata", 0o755))
		check(t, os.WriteFile(golden, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	check(t, err)
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("the log does other things to the disk than %s says; go test ./wal/waltest -run TestGoldenTrace -rewrite, and read the diff (-want +got):\n%s", golden, diff)
	}
}
