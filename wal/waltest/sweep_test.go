package waltest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/wal"
)

const (
	sectorBytes = 512
	blockBytes  = 4096
)

// image is what is in files, by path. It is never changed, only copied.
type image map[string][]byte

func (im image) paths() []string { return slices.Sorted(maps.Keys(im)) }

// patch is what a fault puts in a place.
type patch struct {
	path string
	off  int64
	data []byte
}

// fault is one case of the sweep.
type fault struct {
	kind    string
	patches []patch
	// remove is a file that goes; cut one that is made shorter, to size.
	remove, cut string
	size        int64
}

func (f *fault) String() string {
	s := f.kind
	for _, p := range f.patches {
		s += fmt.Sprintf(", %d bytes at %s+%d", len(p.data), filepath.Base(p.path), p.off)
	}
	if f.remove != "" {
		s += ", " + filepath.Base(f.remove)
	}
	if f.cut != "" {
		s += fmt.Sprintf(", %s to %d bytes", filepath.Base(f.cut), f.size)
	}
	return s
}

// apply returns the files as the fault leaves them.
func (f *fault) apply(files image) image {
	files = maps.Clone(files)
	changed := map[string]bool{}
	for _, p := range f.patches {
		if !changed[p.path] {
			files[p.path], changed[p.path] = bytes.Clone(files[p.path]), true
		}
		copy(files[p.path][p.off:], p.data)
	}
	if f.remove != "" {
		delete(files, f.remove)
	}
	if f.cut != "" {
		files[f.cut] = files[f.cut][:f.size]
	}
	return files
}

// outcome is what became of a case.
type outcome int

const (
	exact        outcome = iota // all that was acknowledged
	corrupt                     // wal.ErrCorrupt, and nothing was changed
	torn                        // all that was acknowledged; bytes of a torn write were cut off
	lostSilently                // something acknowledged is missing, and nobody says so
	lostByCut                   // the same, and recovery destroyed it
	wrongData                   // something that was never written so
	panicked
	refused // another error than ErrCorrupt
	outcomes
)

var outcomeNames = [outcomes]string{"recovered exactly", "ErrCorrupt", "torn tail cut, unacknowledged only",
	"lost acknowledged, silently", "lost acknowledged, by automatic cut", "wrong data", "panics", "other error"}

// variant is a log to damage.
type variant struct {
	name  string
	files image
	// mem has the files too, for the native format.
	mem *vfstest.Mem
	now moment
	// sectors and blocks are what was in a place before it was last written.
	sectors, blocks map[string]map[int64][]byte
	// bare: nothing proves the last append, which went to [from, to) of the newest
	// file. Without that append the log held before.
	bare     bool
	newest   string
	from, to int64
	before   moment
	// torn is what the log would hold with a write that is torn.
	torn bool
}

// format is what the sweep must know of a backend's format.
type format struct {
	name   string
	suffix string
	// headers lists the ranges of a file's bytes that are headers.
	headers func(file []byte) [][2]int64
	// written says whether a sector holds what the log has written in this life of
	// the file.
	written func(file []byte, off int64) bool
	// stride and payload thin the sample: every stride-th bit of the headers,
	// payload bits of each sector.
	stride, payload int
	// thin takes one of so many of the other cases.
	thin int
	// try recovers a log after a fault.
	try func(v *variant, f *fault) attempt
}

// attempt is what recovery made of a log.
type attempt struct {
	got recovered
	err error
	// changed says whether the files are other than the fault left them; files
	// returns them.
	changed func() bool
	files   func() image
	// finish, if set, uses the log further.
	finish func() error
}

// lap of the sweep: a format and a log in it.
type lap struct {
	*format
	*variant
	// sparing leaves out bit flips in files that another lap has too.
	sparing image
}

func lapsOf(f *format, variants []*variant) []lap {
	var laps []lap
	for _, v := range variants {
		laps = append(laps, lap{format: f, variant: v})
		if v != variants[0] {
			laps[len(laps)-1].sparing = variants[0].files
		}
	}
	return laps
}

// bits are single bit flips.
func bits(kind string, files image, path string, ranges [][2]int64, stride int) []fault {
	var faults []fault
	n := 0
	for _, r := range ranges {
		for bit := r[0] * 8; bit < r[1]*8; bit++ {
			if n++; n%stride != 0 {
				continue
			}
			flipped := files[path][bit/8] ^ 1<<(bit%8)
			faults = append(faults, fault{kind: kind, patches: []patch{{path, bit / 8, []byte{flipped}}}})
		}
	}
	return faults
}

// payloadBits are n bits of each sector, drawn by a seed.
func payloadBits(files image, path string, n int) []fault {
	rnd := rand.New(rand.NewPCG(1, 1))
	var faults []fault
	for at := int64(0); at < int64(len(files[path])); at += sectorBytes {
		for range n {
			off := at + rnd.Int64N(sectorBytes)
			if off >= int64(len(files[path])) {
				continue
			}
			faults = append(faults, fault{kind: "a bit of a payload flipped", patches: []patch{{path, off, []byte{files[path][off] ^ 1<<rnd.IntN(8)}}}})
		}
	}
	return faults
}

var unitNames = map[int64]string{sectorBytes: "sector", blockBytes: "block"}

// part is a sector or block of a file, nil beyond its end.
func part(files image, path string, off, unit int64) []byte {
	if off+unit > int64(len(files[path])) {
		return nil
	}
	return files[path][off:][:unit]
}

// placed are the faults of whole sectors or blocks.
func (l lap) placed(paths []string, unit int64) []fault {
	rnd := rand.New(rand.NewPCG(2, uint64(unit)))
	name := unitNames[unit]
	stale := l.sectors
	if unit == blockBytes {
		stale = l.blocks
	}
	var faults []fault
	add := func(kind string, patches ...patch) {
		faults = append(faults, fault{kind: kind, patches: patches})
	}
	for i, path := range paths {
		size := int64(len(l.files[path]))
		for off := int64(0); off+unit <= size; off += unit {
			here := l.files[path][off:][:unit]
			add("a "+name+" zeroed", patch{path, off, make([]byte, unit)})
			if old := stale[path][off]; old != nil {
				add("a "+name+" stale", patch{path, off, old})
			}
			swap := func(otherPath string, otherOff int64) {
				if other := part(l.files, otherPath, otherOff, unit); other != nil {
					add("two "+name+"s swapped", patch{path, off, other}, patch{otherPath, otherOff, here})
				}
			}
			swap(path, off+unit)
			swap(path, rnd.Int64N(size/unit)*unit)
			for j := range paths {
				if other := part(l.files, paths[j], off, unit); other != nil && j != i {
					add("a "+name+" of another file", patch{path, off, other})
				}
			}
			if i > 0 {
				swap(paths[i-1], off)
			}
		}
	}
	return faults
}

// faults are all cases of one kind of log, in an order that is always the same.
func (l lap) faults() []fault {
	var faults, thick []fault
	paths := slices.DeleteFunc(l.files.paths(), func(p string) bool { return filepath.Ext(p) != l.suffix })
	for _, path := range paths {
		if bytes.Equal(l.sparing[path], l.files[path]) {
			continue
		}
		thick = append(thick, bits("a bit of a header flipped", l.files, path, l.headers(l.files[path]), l.stride)...)
		thick = append(thick, payloadBits(l.files, path, l.payload)...)
	}
	for _, path := range paths {
		size := int64(len(l.files[path]))
		faults = append(faults, fault{kind: "a file missing", remove: path})
		for cut := int64(0); cut < size; cut += sectorBytes {
			faults = append(faults, fault{kind: "a file truncated", cut: path, size: cut})
			if odd := cut + 1 + cut/sectorBytes*37%(sectorBytes-1); odd < size {
				faults = append(faults, fault{kind: "a file truncated", cut: path, size: odd})
			}
		}
	}
	for i, path := range paths[1:] {
		if a, b := l.files[paths[i]], l.files[path]; len(a) == len(b) {
			faults = append(faults, fault{kind: "two files swapped", patches: []patch{{paths[i], 0, b}, {path, 0, a}}})
		}
	}
	for _, path := range l.files.paths() {
		if filepath.Ext(path) == ".spare" {
			for _, f := range payloadBits(l.files, path, 1) {
				f.kind = spareFault
				faults = append(faults, f)
			}
		}
	}
	faults = append(faults, l.placed(paths, sectorBytes)...)
	faults = append(faults, l.placed(paths, blockBytes)...)
	// What changes nothing is no fault.
	faults = slices.DeleteFunc(faults, func(f fault) bool {
		return f.remove == "" && f.cut == "" && !slices.ContainsFunc(f.patches, func(p patch) bool {
			return !bytes.Equal(l.files[p.path][p.off:][:len(p.data)], p.data)
		})
	})
	if l.thin > 1 {
		// Drawn, and not counted off: the kinds come in turn.
		rnd := rand.New(rand.NewPCG(4, 4))
		thinned := faults[:0]
		for _, f := range faults {
			if rnd.IntN(l.thin) == 0 || f.remove != "" || f.kind == "two files swapped" {
				thinned = append(thinned, f)
			}
		}
		faults = thinned
	}
	faults = append(thick, faults...)
	rnd := rand.New(rand.NewPCG(3, 3))
	var doubles []fault
	for range len(faults) / 50 {
		a, b := faults[rnd.IntN(len(faults))], faults[rnd.IntN(len(faults))]
		if a.remove+a.cut+b.remove+b.cut == "" {
			doubles = append(doubles, fault{kind: doubleFault, patches: append(slices.Clone(a.patches), b.patches...)})
		}
	}
	return append(faults, doubles...)
}

const (
	spareFault   = "a bit of a spare file flipped"
	openFault    = "any of these under an open log, then read"
	doubleFault  = "two faults at once (for information)"
	missingFault = "sectors missing from a last append without an end mark"
)

// unprovable says whether a fault is the one that no single disk can tell from a
// torn write: it does nothing but make whole sectors of a last append, which has no end
// mark, be what they were before, or zero.
func (l lap) unprovable(f *fault) bool {
	if !l.bare || f.remove != "" || f.cut != "" {
		return false
	}
	touched := false
	damaged := f.apply(l.files)
	for path, data := range damaged {
		for off := int64(0); off < int64(len(data)); off += sectorBytes {
			now, was := part(damaged, path, off, sectorBytes), part(l.files, path, off, sectorBytes)
			if bytes.Equal(now, was) {
				continue
			}
			old := l.sectors[path][off]
			if path == l.newest && off >= l.from && off < l.to && !l.written(data, off) &&
				(old != nil && bytes.Equal(now, old) || bytes.Count(now, []byte{0}) == sectorBytes || l.earlier(data, off)) {
				touched = true
				continue
			}
			if path != l.newest && l.dead(path) {
				continue
			}
			return false
		}
	}
	return touched
}

// earlier says whether a sector is one of the native log's, of an earlier life
// of some file in the same place.
func (l lap) earlier(data []byte, off int64) bool {
	le := binary.LittleEndian
	return le.Uint32(data[off+4:]) < le.Uint32(data[4:]) && le.Uint32(data[off+8:])&^(1<<31) == uint32(off/sectorBytes)
}

// dead says whether a file lies before the newest mark: it can go.
func (l lap) dead(path string) bool {
	return l.try(l.variant, &fault{remove: path}).err == nil
}

// run tries a fault. problem says what else is not as it must be.
func (l lap) run(f *fault, thorough bool) (result outcome, problem error) {
	defer func() {
		if r := recover(); r != nil {
			result, problem = panicked, fmt.Errorf("panic: %v", r)
		}
	}()
	a := l.try(l.variant, f)
	if err := a.err; err != nil {
		switch {
		case strings.Contains(err.Error(), "panic"):
			return panicked, err
		case errors.Is(err, wal.ErrNotFound):
			return lostSilently, err // a member would begin anew
		case !errors.Is(err, wal.ErrCorrupt):
			return refused, err
		}
		var detail *wal.CorruptError
		if errors.As(err, &detail) && detail.Intact > l.now.done.last() {
			problem = fmt.Errorf("Intact is %d in a log that ends at %d", detail.Intact, l.now.done.last())
		}
		if a.changed() {
			problem = errors.New("the files changed")
		}
		return corrupt, problem
	}
	result = exact
	err := l.now.judge(&a.got)
	switch {
	case errors.Is(err, errWrong):
		result = wrongData
	case err != nil && l.cut(f.apply(l.files), a.files()):
		result = lostByCut
	case err != nil:
		result = lostSilently
	case l.variant.torn && l.cut(f.apply(l.files), a.files()):
		result = torn
	}
	if result == lostSilently || result == lostByCut {
		if l.unprovable(f) {
			problem = l.before.judge(&a.got) // that append, and nothing else
		}
	}
	if thorough && a.finish != nil {
		err = errors.Join(err, a.finish())
	}
	if problem == nil && err != nil && result == exact {
		problem = fmt.Errorf("not usable afterwards: %w", err)
	}
	return result, errors.Join(problem, err)
}

// cut says whether recovery took away something that the log had written.
func (l lap) cut(before, after image) bool {
	for path, data := range before {
		if filepath.Ext(path) != l.suffix {
			continue
		}
		for off := int64(0); off+sectorBytes <= int64(len(data)); off += sectorBytes {
			if l.written(data, off) && !bytes.Equal(part(before, path, off, sectorBytes), part(after, path, off, sectorBytes)) {
				return true
			}
		}
	}
	return false
}

// table counts outcomes by the kind of fault.
type table struct {
	mu     sync.Mutex
	order  []string
	counts map[string]*[outcomes]int
}

func (tb *table) add(kind string, o outcome) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.counts[kind] == nil {
		tb.order = append(tb.order, kind)
		tb.counts[kind] = new([outcomes]int)
	}
	tb.counts[kind][o]++
}

// String is a table for docs/TESTING.md.
func (tb *table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| fault | cases | %s |\n|---|%s\n", strings.Join(outcomeNames[:], " | "), strings.Repeat("---:|", int(outcomes)+1))
	for _, kind := range tb.order {
		if all := tb.cases(kind); all > 0 {
			fmt.Fprintf(&b, "| %s | %d |", kind, all)
			for _, n := range tb.counts[kind] {
				fmt.Fprintf(&b, " %d |", n)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func (tb *table) cases(kind string) (all int) {
	for _, n := range tb.counts[kind] {
		all += n
	}
	return all
}

var faultOrder = []string{
	"a bit of a header flipped", "a bit of a payload flipped",
	"a sector zeroed", "a block zeroed", "a sector stale", "a block stale",
	"a sector of another file", "a block of another file",
	"two sectors swapped", "two blocks swapped",
	"a file truncated", "a file missing", "two files swapped", spareFault, openFault,
	missingFault, doubleFault,
}

// sweep runs all faults of all laps, on two cores.
func sweep(t *testing.T, laps []lap, asserted bool) *table {
	tb := &table{counts: map[string]*[outcomes]int{}}
	for _, kind := range faultOrder {
		tb.order = append(tb.order, kind)
		tb.counts[kind] = new([outcomes]int)
	}
	var complaints atomic.Int64
	complain := func(l lap, f *fault, o outcome, err error) {
		if n := complaints.Add(1); n <= 20 {
			t.Errorf("%s, %s: %s: %v", l.variant.name, f, outcomeNames[o], err)
		}
	}
	for _, l := range laps {
		faults := l.faults()
		var next atomic.Int64
		var workers sync.WaitGroup
		for range 2 {
			workers.Go(func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= len(faults) {
						return
					}
					f := &faults[i]
					o, problem := l.run(f, i%53 == 0 && f.kind != spareFault)
					kind := f.kind
					if (o == lostSilently || o == lostByCut) && kind != doubleFault && l.unprovable(f) {
						kind = missingFault
					}
					tb.add(kind, o)
					if o >= wrongData && testing.Verbose() {
						t.Logf("%s, %s: %s: %v", l.variant.name, f, outcomeNames[o], problem)
					}
					if !asserted || kind == doubleFault && o != panicked {
						continue
					}
					bad := o >= lostSilently && kind != missingFault
					if kind == missingFault && errors.Is(problem, errLost) && l.unprovable(f) {
						problem = nil
					}
					if bad || problem != nil {
						complain(l, f, o, problem)
					}
				}
			})
		}
		workers.Wait()
	}
	if n := complaints.Load(); n > 20 {
		t.Errorf("and %d more", n-20)
	}
	return tb
}

// contents writes a log with everything in it that a log may hold, over several
// files, with files that were used before.
func contents(s *subject) error {
	rnd := rand.New(rand.NewPCG(7, 7))
	some := func(n, most int) []int {
		sizes := make([]int, n)
		for i := range sizes {
			sizes[i] = 10 + rnd.IntN(most)
		}
		return sizes
	}
	if err := s.create(1); err != nil {
		return err
	}
	// A first life of the files.
	for s.done.last() < 100 {
		if err := sequence(s.reserve, func() error { return s.addCommitted(some(9, 3000)...) }); err != nil {
			return err
		}
	}
	if err := sequence(s.commit, func() error { return s.setMark(s.done.last() - 3) }, s.release); err != nil {
		return err
	}
	for s.done.last() < 140 {
		if err := s.addCommitted(some(4, 3000)...); err != nil {
			return err
		}
	}
	return sequence(
		s.commit,
		func() error { return s.setMark(s.done.last() - 2) },
		s.release,
		// From here on everything is behind the newest mark but one.
		func() error { return s.addCommitted(10) },
		func() error { return s.addCommitted(some(1, 600)...) },
		func() error { return s.addCommitted(6000, 6000) },
		func() error { return s.addCommitted(some(20, 100)...) },
		s.idle,
		func() error { return s.replace(5, 700) },
		func() error { return s.add(some(3, 400)...) },
		func() error { return s.append(wal.Batch{HardState: hard(s.done.hard.Term+1, 2, s.done.hard.Commit)}) },
		s.commit,
		func() error { return s.setMark(s.done.last() - 20) },
		func() error {
			// Three batches at once, of which the second replaces a part of the first.
			last, hs := s.done.last(), s.done.hard
			next := hs
			next.Term++
			return s.append(
				wal.Batch{Entries: entriesFrom(last+1, hs.Term, 300, 20, 500, 90), HardState: hs},
				wal.Batch{Entries: entriesFrom(last+3, next.Term, 800, 30), HardState: next},
				wal.Batch{Entries: entriesFrom(last+5, next.Term, 1000)})
		},
		func() error { return s.add(70 << 10) },
		func() error { return s.addCommitted(some(2, 2000)...) },
		s.commit,
		func() error { return s.setMark(s.done.last() - 6) },
		s.release,
		func() error { return s.addCommitted(some(24, 2000)...) },
		func() error { return s.replace(1, some(18, 900)...) },
		func() error { return s.addCommitted(some(2, 3000)...) },
		s.idle,
		func() error { return s.addCommitted(some(3, 900)...) },
		func() error { return s.addCommitted(50) },
		func() error { return s.addCommitted(some(2, 500)...) },
	)
}

// lastAppend takes two blocks.
func lastAppend(s *subject) error { return s.addCommitted(900, 10, 2800, 1500) }

// tornAppend takes three, and is never acknowledged.
func tornAppend(s *subject) error { return s.add(3000, 3000, 400, 10, 2500) }

// memory notes what sectors and blocks held before they were last written.
type memory struct {
	mem             *vfstest.Mem
	renamed         renames
	sectors, blocks map[string]map[int64][]byte
}

func newMemory() *memory {
	return &memory{renamed: renames{}, sectors: map[string]map[int64][]byte{}, blocks: map[string]map[int64][]byte{}}
}

// remember takes what was before from a memory that goes on.
func (v *variant) remember(m *memory) {
	v.sectors, v.blocks = map[string]map[int64][]byte{}, map[string]map[int64][]byte{}
	for path := range v.files {
		v.sectors[path], v.blocks[path] = maps.Clone(m.sectors[path]), maps.Clone(m.blocks[path])
	}
}

// compare notes what a file held in the places that changed.
func (m *memory) compare(path string, before, after []byte) {
	if before == nil {
		return
	}
	if from, to := differing(before, after); from >= 0 {
		op := vfstest.Op{Path: path, Offset: from, Length: to - from}
		m.note(m.sectors, op, before, sectorBytes)
		m.note(m.blocks, op, before, blockBytes)
	}
}

// renames knows which names open files have now: an Op has the one under which
// its file was opened.
type renames map[string]string

// now returns the present path of what op is done to.
func (r renames) now(op vfstest.Op) string {
	switch op.Kind {
	case vfstest.Create, vfstest.OpenReadWrite:
		delete(r, op.Path)
	case vfstest.Rename:
		r[op.Path] = op.To
	case vfstest.Write, vfstest.Sync, vfstest.Truncate, vfstest.Close:
		if to, ok := r[op.Path]; ok {
			return to
		}
	}
	return op.Path
}

func (m *memory) hook(op vfstest.Op) error {
	op.Path = m.renamed.now(op)
	switch op.Kind {
	case vfstest.Rename:
		m.sectors[op.To], m.blocks[op.To] = m.sectors[op.Path], m.blocks[op.Path]
		delete(m.sectors, op.Path)
		delete(m.blocks, op.Path)
		// A directory that gets its name takes its files along.
		for path := range m.sectors {
			if rest, ok := strings.CutPrefix(path, op.Path+"/"); ok {
				m.sectors[op.To+"/"+rest], m.blocks[op.To+"/"+rest] = m.sectors[path], m.blocks[path]
			}
		}
	case vfstest.Write:
		data := m.mem.ReadFile(op.Path)
		m.note(m.sectors, op, data, sectorBytes)
		m.note(m.blocks, op, data, blockBytes)
	}
	return nil
}

func (m *memory) note(to map[string]map[int64][]byte, op vfstest.Op, data []byte, unit int64) {
	if to[op.Path] == nil {
		to[op.Path] = map[int64][]byte{}
	}
	for off := op.Offset / unit * unit; off < op.Offset+op.Length; off += unit {
		old := make([]byte, unit)
		if off < int64(len(data)) {
			copy(old, data[off:])
		}
		to[op.Path][off] = old
	}
}

// differing returns the range of sectors in which two contents differ.
func differing(a, b []byte) (from, to int64) {
	from = -1
	for off := int64(0); off < int64(len(b)); off += sectorBytes {
		if end := min(off+sectorBytes, int64(len(b))); off >= int64(len(a)) || !bytes.Equal(a[off:min(end, int64(len(a)))], b[off:end]) {
			if from < 0 {
				from = off
			}
			to = end
		}
	}
	return from, to
}

// newestOf is the path of the newest file of a log.
func newestOf(files image, suffix string) string {
	newest := ""
	for _, path := range files.paths() {
		if filepath.Ext(path) == suffix {
			newest = path
		}
	}
	return newest
}

// tear mixes two contents: some sectors of the write are there, some are not.
func tear(before, after []byte) []byte {
	mixed := bytes.Clone(after)
	from, to := differing(before, after)
	for i, off := 0, from; off < to; i, off = i+1, off+sectorBytes {
		if i%3 == 1 && off < int64(len(before)) {
			copy(mixed[off:min(off+sectorBytes, to)], before[off:])
		}
	}
	return mixed
}

// nativeVariants writes the log to damage in the native format, and leaves it in
// three ways.
func nativeVariants(t *testing.T) []*variant {
	mem := newMem(t)
	m := newMemory()
	m.mem = mem
	s := &subject{backend: native(vfstest.NewFaulty(mem, m.hook)), dir: dir}
	check(t, contents(s))
	variantOf := func(name string) *variant {
		// Everything is synced: nothing is lost.
		v := &variant{name: name, mem: mem.CrashLosingAll(), now: s.now()}
		v.files = imageOf(v.mem)
		v.newest = newestOf(v.files, ".seg")
		v.remember(m)
		return v
	}
	before := variantOf("")
	check(t, lastAppend(s))
	left := variantOf("left without an end mark")
	left.bare, left.before = true, before.now
	left.from, left.to = differing(before.files[left.newest], left.files[left.newest])
	left.to = (left.to + blockBytes - 1) / blockBytes * blockBytes // a frame has its blocks for itself
	if left.newest != before.newest || left.to-left.from != 2*blockBytes {
		t.Fatalf("the last append is at %d to %d of %s: change the sizes so that it takes two blocks of the newest file", left.from, left.to, left.newest)
	}
	if tail := left.files[left.newest]; tail[left.to+4] == 0 || nativeWritten(tail, left.to) {
		t.Fatalf("%s was never used before: have more segments released", left.newest)
	}
	acknowledged := s.now()
	check(t, tornAppend(s))
	half := variantOf("left with a torn write")
	if half.newest != left.newest {
		t.Fatal("the torn write is in a file of its own: change the sizes")
	}
	half.torn, half.now = true, acknowledged
	half.now.batches = []wal.Batch{{Entries: s.done.entries[len(acknowledged.done.entries):], HardState: s.done.hard}}
	half.files[half.newest] = tear(left.files[half.newest], half.files[half.newest])
	half.mem.WriteFile(half.newest, half.files[half.newest])
	check(t, s.close())
	closed := variantOf("closed")
	return []*variant{left, closed, half}
}

// imageOf is what is on a disk, with absolute paths.
func imageOf(mem *vfstest.Mem) image {
	files := image{}
	for path, data := range mem.Image() {
		if filepath.Base(path) != "LOCK" {
			files["/"+path] = data
		}
	}
	return files
}

// nativeHeaders: the header of each sector that was written in this life of the
// file, and of what begins in a block also its own header.
func nativeHeaders(file []byte) [][2]int64 {
	var ranges [][2]int64
	for off := int64(0); off < int64(len(file)); off += sectorBytes {
		switch {
		case !nativeWritten(file, off):
		case off%blockBytes == 0 && file[off+11]&0x80 != 0:
			ranges = append(ranges, [2]int64{off, off + 112})
		default:
			ranges = append(ranges, [2]int64{off, off + 16})
		}
	}
	return ranges
}

// nativeWritten compares the life of a sector with that of the file.
func nativeWritten(file []byte, off int64) bool {
	life := binary.LittleEndian.Uint32(file[4:])
	return off+sectorBytes <= int64(len(file)) && life != 0 && binary.LittleEndian.Uint32(file[off+4:]) == life
}

// tryNative recovers a log on a disk in memory.
func tryNative(v *variant, f *fault) attempt {
	mem := v.mem.Clone()
	if err := f.strike(mem); err != nil {
		panic(fmt.Sprintf("fault %s: %v", f, err))
	}
	changed := false
	b := native(vfstest.NewFaulty(mem, func(op vfstest.Op) error {
		changed = changed || op.Changes() && op.Kind != vfstest.Lock
		return nil
	}))
	got, l, err := recoverLog(b, dir)
	a := attempt{got: got, err: err, changed: func() bool { return changed }, files: func() image { return imageOf(mem) }}
	if err == nil {
		a.finish = func() error { return usable(b, dir, l, got) }
	}
	return a
}

// strike does to a disk what the fault says.
func (f *fault) strike(mem *vfstest.Mem) error {
	var errs []error
	for _, p := range f.patches {
		errs = append(errs, change(mem, p.path, func(file vfs.File) error {
			_, err := file.WriteAt(p.data, p.off)
			return err
		}))
	}
	if f.remove != "" {
		errs = append(errs, mem.Remove(f.remove))
	}
	if f.cut != "" {
		errs = append(errs, change(mem, f.cut, func(file vfs.File) error { return file.Truncate(f.size) }))
	}
	return errors.Join(errs...)
}

func change(fsys vfs.FS, path string, do func(vfs.File) error) error {
	file, err := fsys.OpenReadWrite(path)
	if err != nil {
		return err
	}
	return errors.Join(do(file), file.Close())
}

func TestFaultSweep(t *testing.T) {
	t.Run("native", func(t *testing.T) {
		f := &format{name: "native", suffix: ".seg", headers: nativeHeaders, written: nativeWritten, stride: 3, payload: 2, thin: 2, try: tryNative}
		switch {
		case quick():
			f.stride, f.payload, f.thin = 13, 1, 7
		case thorough():
			f.stride, f.payload, f.thin = 1, 4, 1
		}
		variants := nativeVariants(t)
		laps := lapsOf(f, variants)
		tb := sweep(t, laps, true)
		underOpenLog(t, tb, laps[1])
		for _, kind := range tb.order {
			if tb.cases(kind) == 0 {
				t.Errorf("no case of %q", kind)
			}
		}
		t.Logf("native\n%s", tb)
	})
	t.Run("etcd", func(t *testing.T) {
		f := &format{name: "etcd", suffix: ".wal", headers: etcdHeaders, written: etcdWritten, stride: 37, payload: 1, thin: 5}
		switch {
		case quick():
			f.stride, f.payload, f.thin = 301, 0, 31
		case thorough():
			f.stride, f.payload, f.thin = 11, 2, 2
		}
		f.try = etcdTrier(t)
		laps := lapsOf(f, etcdVariants(t))
		t.Logf("etcd\n%s", sweep(t, laps, false))
	})
}

// underOpenLog damages the files of a log that is open, one place at a time, and
// reads everything.
func underOpenLog(t *testing.T, tb *table, l lap) {
	mem := l.mem.Clone()
	got, log, err := recoverLog(native(mem), dir)
	check(t, err)
	faults := l.faults()
	rnd := rand.New(rand.NewPCG(5, 5))
	for i := range faults {
		f := &faults[i]
		if f.remove+f.cut != "" || f.kind == doubleFault || f.kind == spareFault || rnd.IntN(8) > 0 {
			continue
		}
		check(t, f.strike(mem))
		again := got
		again.entries, err = readAll(log, got.mark.Index+1, got.state.Last+1)
		switch {
		case errors.Is(err, wal.ErrCorrupt):
			tb.add(openFault, corrupt)
		case err != nil:
			tb.add(openFault, refused)
			t.Errorf("read after %s: %v", f, err)
		default:
			if err = l.now.judge(&again); err != nil {
				tb.add(openFault, wrongData)
				t.Errorf("read after %s: %v", f, err)
			} else {
				tb.add(openFault, exact)
			}
		}
		back := *f
		back.patches = slices.Clone(f.patches)
		for i := range back.patches {
			p := &back.patches[i]
			p.data = l.files[p.path][p.off:][:len(p.data)]
		}
		check(t, back.strike(mem))
	}
	again := got
	again.entries, err = readAll(log, got.mark.Index+1, got.state.Last+1)
	check(t, err)
	check(t, l.now.judge(&again))
	check(t, log.Close())
}

// etcdHeaders: of each record the length, and the beginning with type and
// checksum.
func etcdHeaders(file []byte) [][2]int64 {
	var ranges [][2]int64
	for off := int64(0); off+8 <= int64(len(file)); {
		field := binary.LittleEndian.Uint64(file[off:])
		if field == 0 {
			break
		}
		length := int64(field&^(0xff<<56)) + int64(field>>56&7)
		ranges = append(ranges, [2]int64{off, min(off+18, off+8+length)})
		off += 8 + length
	}
	return ranges
}

// etcdWritten: etcd writes only to files of zeros.
func etcdWritten(file []byte, off int64) bool {
	end := min(off+sectorBytes, int64(len(file)))
	return off < end && bytes.Count(file[off:end], []byte{0}) < int(end-off)
}

// tempDir is in memory where that is easy: what is lost here is chosen, and
// fsyncs only take time.
func tempDir(t testing.TB) string {
	parent, err := os.MkdirTemp("/dev/shm", "waltest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { check(t, os.RemoveAll(parent)) })
	return parent
}

func readDir(dir string) (image, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := image{}
	for _, n := range names {
		if filepath.Ext(n.Name()) == ".tmp" {
			continue // what etcd makes ready for later
		}
		if files["/"+n.Name()], err = os.ReadFile(filepath.Join(dir, n.Name())); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func writeDir(dir string, files image) error {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	for path, data := range files {
		if err := os.WriteFile(filepath.Join(dir, path), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// etcdTrier recovers logs in directories of their own.
func etcdTrier(t *testing.T) func(*variant, *fault) attempt {
	parent := tempDir(t)
	var count atomic.Int64
	b := etcdBackend()
	return func(v *variant, f *fault) (a attempt) {
		dir := filepath.Join(parent, fmt.Sprint(count.Add(1)))
		damaged := f.apply(v.files)
		if a.err = writeDir(dir, damaged); a.err != nil {
			return a
		}
		var l wal.Log
		a.got, l, a.err = recoverLog(b, dir)
		files, err := readDir(dir)
		if l != nil {
			err = errors.Join(err, l.Close())
		}
		if err = errors.Join(err, os.RemoveAll(dir)); a.err == nil {
			a.err = err
		}
		a.files = func() image { return files }
		a.changed = func() bool { return !maps.EqualFunc(damaged, files, bytes.Equal) }
		return a
	}
}

// etcdVariants are the same logs in etcd's format.
func etcdVariants(t *testing.T) []*variant {
	dir := filepath.Join(tempDir(t), "wal")
	s := &subject{backend: etcdBackend(), dir: dir}
	m := newMemory()
	earlier := image{}
	s.written = func() {
		files, err := readDir(dir)
		check(t, err)
		for path, data := range files {
			m.compare(path, earlier[path], data)
		}
		earlier = files
	}
	check(t, contents(s))
	variantOf := func(name string) *variant {
		files, err := readDir(dir)
		check(t, err)
		v := &variant{name: name, files: files, now: s.now(), newest: newestOf(files, ".wal")}
		v.remember(m)
		return v
	}
	before := variantOf("")
	check(t, lastAppend(s))
	left := variantOf("left without an end mark")
	left.bare, left.before = true, before.now
	left.from, left.to = differing(before.files[left.newest], left.files[left.newest])
	acknowledged := s.now()
	check(t, tornAppend(s))
	half := variantOf("left with a torn write")
	half.torn, half.now = true, acknowledged
	half.now.batches = []wal.Batch{{Entries: s.done.entries[len(acknowledged.done.entries):], HardState: s.done.hard}}
	half.files[half.newest] = tear(left.files[half.newest], half.files[half.newest])
	check(t, s.close())
	closed := variantOf("closed")
	return []*variant{left, closed, half}
}
