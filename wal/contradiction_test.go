package wal

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// forged writes segments whose checksums are right, whatever is in them.
type forged struct {
	header
	file []byte
	off  int64
	// next and sum are the sequence of the next frame and the checksum of the last one.
	next uint64
	sum  uint32
}

func forge(h header) *forged {
	h.size = 16 * blockBytes
	s := &forged{header: h, file: vfs.Aligned(int(h.size)), off: blockBytes, next: h.frame, sum: h.sum}
	h.encode(s.file[:blockBytes])
	return s
}

// put adds a frame: its sequence and what it follows are right.
func (s *forged) put(f frame, entries ...raftpb.Entry) *forged {
	f.seq, f.previous = s.next, s.sum
	if len(entries) > 0 {
		f.kinds |= kindEntries
	}
	if len(f.marks) > 0 {
		f.kinds |= kindMarks
	}
	var e encoder
	b, sum := e.encode(&f, spans{entries}, saltSum(s.salt), uint32(s.seq), s.off)
	copy(s.file[s.off:], b)
	s.off += int64(len(b))
	s.next, s.sum = s.next+1, sum
	return s
}

// Frames and segments with right checksums that contradict each other are damage: opening
// the log reports it, names the segment, and leaves every file as it was.
func TestContradictionIsDamage(t *testing.T) {
	const dir = "/wal"
	mark := Mark{Index: 5, Term: 2, ConfState: raftpb.ConfState{Voters: []uint64{1}}}
	hard := raftpb.HardState{Term: 2, Commit: 5}
	begin := frame{kinds: kindBegin, last: 5, lastTerm: 2, hard: hard, marks: []Mark{mark}}
	entry := func(index, term uint64) raftpb.Entry {
		return raftpb.Entry{Index: index, Term: term, Data: []byte("data")}
	}
	one := func(index, term uint64) frame { return frame{first: index, last: index, lastTerm: term, hard: hard} }
	with := func(f frame, change func(*frame)) frame { change(&f); return f }
	first := func() *forged { return forge(header{salt: 77, seq: 1, frame: 1}).put(begin) }
	// second continues s.
	second := func(s *forged, change func(*header)) *forged {
		h := header{salt: 77, seq: 2, frame: s.next, sum: s.sum, before: s.off}
		change(&h)
		return forge(h)
	}
	same := func(*header) {}
	two := func(change func(*header), b frame) []*forged {
		s := first().put(one(6, 2), entry(6, 2))
		return []*forged{s, second(s, change).put(b)}
	}
	goesOn := with(begin, func(f *frame) { f.last = 6 })
	for name, c := range map[string]struct {
		segments []*forged
		want     string // "": it is whole
	}{
		"whole":             {[]*forged{first().put(one(6, 2), entry(6, 2))}, ""},
		"whole, of two":     {two(same, goesOn), ""},
		"a gap":             {[]*forged{first().put(one(7, 2), entry(7, 2))}, "entries from 7 on in a log that ends at 5"},
		"an unsaid cut":     {[]*forged{first().put(one(6, 2), entry(6, 2)).put(one(6, 3), entry(6, 3))}, "entries from 6 on in a log that ends at 6"},
		"a cut of nothing":  {[]*forged{first().put(with(one(6, 2), func(f *frame) { f.kinds = kindTruncates }), entry(6, 2))}, "entries from 6 on in a log that ends at 5"},
		"an end that moves": {[]*forged{first().put(frame{last: 4, lastTerm: 2, hard: hard})}, "moves the end of the log from 5 to 4"},
		"another last term": {[]*forged{first().put(one(6, 3), entry(6, 2))}, "has term 2, and not 3"},
		"begins twice":      {[]*forged{first().put(begin)}, "begins a segment in its middle"},
		"sealed alone": {[]*forged{first().put(frame{kinds: kindSealed, last: 5, lastTerm: 2, hard: hard})},
			"goes on in segment 2, which is missing"},
		"committed and gone": {[]*forged{first().put(frame{last: 5, lastTerm: 2, hard: raftpb.HardState{Term: 2, Commit: 6}})},
			"ends at entry 5, but 6 was committed"},
		"cut below its mark": {[]*forged{first().put(with(one(4, 2), func(f *frame) { f.kinds = kindTruncates; f.hard.Commit = 3 }), entry(4, 2))},
			"before the mark at 5"},
		"a mark of another term": {[]*forged{first().put(with(one(5, 3), func(f *frame) { f.kinds = kindTruncates }), entry(5, 3))},
			"entry 5 has term 3, and the mark there 2"},
		"of two logs":    {two(func(h *header) { h.salt++ }, goesOn), "the segment is of another log"},
		"another past":   {two(func(h *header) { h.sum++ }, goesOn), "does not continue the one before it"},
		"another end":    {two(func(h *header) { h.before += blockBytes }, goesOn), "ends at offset"},
		"another entry":  {two(same, with(goesOn, func(f *frame) { f.last = 7 })), "the one before it ended at 6 of 2"},
		"another's term": {two(same, with(goesOn, func(f *frame) { f.lastTerm = 3 })), "the one before it ended at 6 of 2"},
		"a frame behind the last": {func() []*forged {
			s := first().put(one(6, 2), entry(6, 2))
			next := second(s, same).put(goesOn)
			s.put(one(7, 2), entry(7, 2))
			return []*forged{s, next}
		}(), "there is something behind the last frame"},
		"an end mark before the end": {func() []*forged {
			s := first()
			end := *s
			end.put(frame{kinds: kindEnd, last: 5, lastTerm: 2, hard: hard})
			next := s.off + blockBytes
			s.next, s.sum, s.off = end.next, end.sum, next
			s.put(one(6, 2), entry(6, 2))
			return []*forged{s, second(s, same).put(goesOn)}
		}(), "proves that it went on"},
		"begins behind its mark": {[]*forged{forge(header{salt: 77, seq: 1, frame: 1}).put(with(begin, func(f *frame) { f.last = 9 }))},
			"begins behind entry 9"},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfstest.NewMem()
			log := must[Log](t)(New(Options{FS: mem, SegmentBytes: 16 * blockBytes}).Create(dir, mark, hard))
			check(t, log.Close())
			mem = mem.CrashKeepingAll()
			for _, s := range c.segments {
				mem.WriteFile(segmentPath(dir, s.seq), s.file)
			}
			log, _, err := New(Options{FS: mem, SegmentBytes: 16 * blockBytes}).Open(dir, mark)
			if err == nil {
				check(t, log.Close())
			}
			if c.want == "" {
				check(t, err)
				return
			}
			var damage *CorruptError
			if !errors.As(err, &damage) || damage.Segment == "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want a CorruptError that says %q", err, c.want)
			}
			for _, s := range c.segments {
				if !bytes.Equal(mem.ReadFile(segmentPath(dir, s.seq)), s.file) {
					t.Errorf("segment %d was changed", s.seq)
				}
			}
		})
	}
}
