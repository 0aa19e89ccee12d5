package wal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// The frames of the fuzz targets lie here.
const (
	fuzzSalt = 0x746c61737461_6c73
	fuzzLife = 3
	fuzzAt   = 2 * blockBytes
)

// FuzzSegmentHeader decodes a sector as the header of a segment, as it is and
// with its checksum set right. What is read is what would be written.
func FuzzSegmentHeader(f *testing.F) {
	whole := make([]byte, blockBytes)
	sound := header{salt: fuzzSalt, seq: fuzzLife, size: 32 << 10, frame: 9, sum: 77, before: fuzzAt}
	for _, change := range []func(*header){
		func(*header) {},
		func(h *header) { h.size = 0 },
		func(h *header) { h.size++ },
		func(h *header) { h.size = -blockBytes },
		func(h *header) { h.seq = 1 << 32 },
	} {
		h := sound
		change(&h)
		h.encode(whole)
		f.Add(bytes.Clone(whole[:sectorBytes]))
	}
	sound.encode(whole)
	newer := bytes.Clone(whole[:sectorBytes])
	newer[24] = version + 1
	f.Add(newer)
	f.Add([]byte("0000000000000000" + magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := make(sector, sectorBytes)
		copy(s, data)
		_, err := decodeHeader(s)
		if right := s.whole(saltSum(le.Uint64(s.body()[16:])), 0); !right && (err == nil || errors.Is(err, ErrVersion)) {
			t.Errorf("the header is not whole, and the error is %v", err)
		}
		le.PutUint32(s[8:], frameBegins)
		le.PutUint32(s, checksum(saltSum(le.Uint64(s.body()[16:])), s))
		h, err := decodeHeader(s)
		isVersion := string(s.body()[:8]) == magic && le.Uint32(s.body()[8:]) != version
		if errors.Is(err, ErrVersion) != isVersion {
			t.Errorf("version %d led to %v", le.Uint32(s.body()[8:]), err)
		}
		if err != nil {
			return
		}
		if h.size < 3*blockBytes || h.size%blockBytes != 0 {
			t.Errorf("a segment of %d bytes", h.size)
		}
		h.encode(whole)
		again, err := decodeHeader(sector(whole[:sectorBytes]))
		if err != nil || again != h {
			t.Errorf("%+v is written and read as %+v, %v", h, again, err)
		}
	})
}

// spread puts what a frame holds into sectors that are right, as many as its
// length asks for; nil if it holds less.
func spread(joined []byte) []byte {
	if len(joined) < frameHeader {
		return nil
	}
	_, n := frameSize(sector(append(make([]byte, sectorHeader), joined...)))
	if (n-1)*sectorBody > int64(len(joined)) {
		return nil
	}
	e := encoder{buf: make([]byte, n*sectorBytes), at: sectorHeader}
	e.put(joined[:min(int64(len(joined)), n*sectorBody)])
	finish(e.buf, saltSum(fuzzSalt), fuzzLife, uint32(le.Uint64(joined)), fuzzAt/sectorBytes)
	return e.buf
}

// joined is the content of sectors.
func joined(sectors []byte) (b []byte) {
	for ; len(sectors) > 0; sectors = sectors[sectorBytes:] {
		b = append(b, sector(sectors[:sectorBytes]).body()...)
	}
	return b
}

// FuzzFrame decodes a frame whose sectors are right. What can be read to its end
// is, written again, the same frame; memory follows what is there.
func FuzzFrame(f *testing.F) {
	dir := goldenLog(f)
	data := must[[]byte](f)(os.ReadFile(filepath.Join(dir, "0000000000000001.seg")))
	for at := int64(blockBytes); at < int64(len(data)); {
		first := sector(data[at:][:sectorBytes])
		if bytes.Equal(first, zeros[:sectorBytes]) {
			break
		}
		_, n := frameSize(first)
		f.Add(joined(data[at:][:n*sectorBytes]))
		at += blocksUpTo(n * sectorBytes)
	}
	var e encoder
	for _, c := range []struct {
		f       frame
		entries spans
	}{
		{frame{seq: 9, kinds: kindMarks | kindBegin, last: 5, lastTerm: 2, marks: []Mark{
			{Index: 3, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{3}}}, {Index: 5, Term: 2}}}, nil},
		{frame{seq: 9, kinds: kindEntries, first: 6, last: 7, lastTerm: 2}, spans{{{Term: 2, Index: 6}}, {{Term: 2, Index: 7, Type: raftpb.EntryConfChangeV2, Data: []byte("x")}}}},
		{frame{seq: 9, kinds: kindEntries, first: 6, last: 8, lastTerm: 2}, spans{{{Term: 2, Index: 6}}}},
		{frame{seq: 9, kinds: kindEntries, first: 1<<64 - 1, last: 0}, spans{{{Term: 2}, {Term: 2}}}},
		{frame{seq: 9, kinds: kindEntries}, nil},
		{frame{seq: 9, kinds: kindMarks}, nil},
		{frame{seq: 9, kinds: kindsKnown + 1}, nil},
	} {
		blocks, _ := e.encode(&c.f, c.entries, saltSum(fuzzSalt), fuzzLife, fuzzAt)
		_, n := frameSize(sector(blocks[:sectorBytes]))
		f.Add(joined(blocks[:n*sectorBytes]))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		sectors := spread(content)
		if sectors == nil {
			return
		}
		fr, body, err := decodeFrame(sectors, nil)
		if cap(body) > 4*len(sectors)+blockBytes {
			t.Errorf("%d bytes of sectors took %d bytes of memory", len(sectors), cap(body))
		}
		if unknown := fr.kinds&^kindsKnown != 0; errors.Is(err, ErrVersion) != unknown {
			t.Errorf("a frame of kinds %#x led to %v", uint32(fr.kinds), err)
		}
		if err != nil {
			return
		}
		var entries []raftpb.Entry
		if fr.eachEntry(func(e raftpb.Entry) { entries = append(entries, e) }) != nil {
			return
		}
		if len(entries) != fr.count {
			t.Fatalf("%d entries in a frame of %d", len(entries), fr.count)
		}
		for i, e := range entries {
			if e.Index != fr.first+uint64(i) || e.Index == 0 || e.Index > fr.last {
				t.Fatalf("entry %d of a frame from %d to %d has the index %d", i, fr.first, fr.last, e.Index)
			}
		}
		var e encoder
		blocks, _ := e.encode(&fr, spans{entries}, saltSum(fuzzSalt), fuzzLife, fuzzAt)
		_, n := frameSize(sector(blocks[:sectorBytes]))
		again, _, err := decodeFrame(blocks[:n*sectorBytes], nil)
		if err != nil {
			t.Fatalf("a frame that was read cannot be read again: %v", err)
		}
		// A configuration may have been written in another order.
		if !bytes.Equal(again.raw, fr.raw) || !bytes.Equal(encodeMarks(again.marks), encodeMarks(fr.marks)) ||
			again.count != fr.count || again.hard != fr.hard || again.kinds != fr.kinds || again.seq != fr.seq || again.previous != fr.previous ||
			again.first != fr.first || again.last != fr.last || again.lastTerm != fr.lastTerm {
			t.Errorf("%+v is written and read as %+v", fr, again)
		}
	})
}
