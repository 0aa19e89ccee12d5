package core

import (
	"encoding/binary"
	"hash"
	"hash/crc64"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// Log Matching says that two logs with the same index and term are equal up to there. It
// rests on every term having one leader. Where disks forgot, a term may be led twice, and
// then two logs with different entries pass for one. So a leader sends sums of the content
// with what it appends first to a member that it has just met, and members that compare
// their logs compare them, too.

// windows are how many entries a sum is over. Several, as the log of one member may begin
// where that of the other has long been compacted.
var windows = [...]uint64{1, 4, 32}

// Sums are checksums of the entries up to a place, one for each of windows; 0 for one that
// is not known.
type Sums [len(windows)]uint64

// differ says whether two logs have other entries before a place. Not knowing is no
// difference.
func (s Sums) differ(o Sums) bool {
	for i := range s {
		if s[i] != 0 && o[i] != 0 && s[i] != o[i] {
			return true
		}
	}
	return false
}

var sumTable = crc64.MakeTable(crc64.ECMA)

// computedSumsMax is how many places' sums are kept.
const computedSumsMax = 8

// computedSums are sums that were computed last. They take 32 entries, which may be many
// megabytes and only on disk, and are wanted for the same place again and again: a leader
// repeats an append until it is acknowledged.
type computedSums struct {
	list []placeSums
	// next is the one to be replaced next.
	next int
}

type placeSums struct {
	index uint64
	sums  Sums
}

func (k *computedSums) get(index uint64) (Sums, bool) {
	for i := range k.list {
		if k.list[i].index == index {
			return k.list[i].sums, true
		}
	}
	return Sums{}, false
}

func (k *computedSums) put(index uint64, sums Sums) {
	if len(k.list) < computedSumsMax {
		k.list = append(k.list, placeSums{index, sums})
		return
	}
	k.list[k.next] = placeSums{index, sums}
	k.next = (k.next + 1) % computedSumsMax
}

// written forgets the sums of entries that a durable append has replaced.
func (k *computedSums) written(a *Append) {
	k.list = slices.DeleteFunc(k.list, func(p placeSums) bool {
		return a.Snapshot != nil || len(a.Entries) > 0 && a.Entries[0].Index <= p.index
	})
	k.next = 0
}

// sumsAt returns the sums of the durable entries up to an index, or of the snapshot there.
func (c *history) sumsAt(index uint64) (sums Sums) {
	if sums, ok := c.computed.get(index); ok && !c.replaces(index) {
		return sums
	}
	size := windows[len(windows)-1]
	entries := c.durableEntries(max(index, size)-size+1, index)
	if len(entries) == 0 || entries[len(entries)-1].Index != index {
		if index == c.begins.Index {
			return c.begins.Sums
		}
		return sums
	}
	sums = sumsOf(entries)
	c.computed.put(index, sums)
	return sums
}

// sumsOf returns the sums of entries that follow each other.
func sumsOf(entries []raftpb.Entry) (sums Sums) {
	for i, n := range windows {
		if uint64(len(entries)) < n {
			break
		}
		sum := crc64.New(sumTable)
		for _, e := range entries[uint64(len(entries))-n:] {
			addEntry(sum, &e)
		}
		sums[i] = max(1, sum.Sum64())
	}
	return sums
}

func addEntry(sum hash.Hash64, e *raftpb.Entry) {
	head := binary.LittleEndian.AppendUint64(nil, e.Index)
	head = binary.LittleEndian.AppendUint64(head, e.Term)
	head = append(head, byte(e.Type))
	_, _ = sum.Write(head) // a hash never fails
	_, _ = sum.Write(e.Data)
}

// SumsFrom reads sums from the header of a snapshot, a message, or an answer. Another number of them
// says nothing.
func SumsFrom(list []uint64) (s Sums) {
	if len(list) == len(s) {
		copy(s[:], list)
	}
	return s
}

// introduction is what this leader says with an append to a member that has acknowledged
// nothing since it began to lead, or since that connected last: the sums up to where the append
// begins.
func (c *members) introduction(m *raftpb.Message) (note octopiipb.Note) {
	if notes := c.peers.get(m.To); !notes.introduced && m.Index > 0 {
		sums := c.sumsAt(m.Index)
		note.Sums = sums[:]
		notes.compares = m.Index
	}
	return note
}
