package core

import (
	"encoding/binary"
	"hash/crc64"

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

// entrySum is the checksum of one entry, and what it takes to append it to that of others:
// the sum of two pieces follows from their sums and the length of the second.
type entrySum struct {
	index, sum uint64
	// shift is x to the power of the length in bits, modulo the polynomial.
	shift uint64
}

// sumsKept is how many entries' checksums are kept.
const sumsKept = 1024

// entrySums are checksums of durable entries, each in the place of its index modulo sumsKept.
// A sum over 32 entries may be over many megabytes that are only on disk, and each message
// may want one at another index: so each entry is read once.
type entrySums struct {
	kept []entrySum
	// last is the highest index in it, at least.
	last uint64
}

func (k *entrySums) get(index uint64) (entrySum, bool) {
	if len(k.kept) == 0 || index == 0 {
		return entrySum{}, false
	}
	e := k.kept[index%sumsKept]
	return e, e.index == index
}

func (k *entrySums) put(e entrySum) {
	if k.kept == nil {
		k.kept = make([]entrySum, sumsKept)
	}
	k.kept[e.index%sumsKept] = e
	k.last = max(k.last, e.index)
}

// written forgets the entries that a durable append has replaced.
func (k *entrySums) written(a *Append) {
	if a.Snapshot != nil {
		*k = entrySums{}
		return
	}
	if len(a.Entries) == 0 || a.Entries[0].Index > k.last {
		return
	}
	first := a.Entries[0].Index
	for i := range k.kept {
		if k.kept[i].index >= first {
			k.kept[i] = entrySum{}
		}
	}
	k.last = first - 1
}

// sumsAt returns the sums of the durable entries up to an index, or of the snapshot there.
func (c *history) sumsAt(index uint64) Sums {
	size := windows[len(windows)-1]
	entries := c.entrySumsUpTo(max(index, size)-size+1, index)
	if len(entries) == 0 && index == c.begins.Index {
		return c.begins.Sums
	}
	return sumsOver(entries)
}

// entrySumsUpTo returns the checksums of the durable entries from first to last, or of those
// from the first one that there is; nothing if the last one is not there.
func (c *history) entrySumsUpTo(first, last uint64) (sums []entrySum) {
	lo, err := c.storage.FirstIndex()
	if err != nil {
		return nil
	}
	hi, err := c.storage.LastIndex()
	if err != nil || last > hi || c.replaces(last) {
		return nil
	}
	for index := max(first, lo); index <= last; index++ {
		e, ok := c.entrySums.get(index)
		if !ok {
			e, ok = c.readSums(index, last)
		}
		if !ok {
			return nil
		}
		sums = append(sums, e)
	}
	return sums
}

// readSums reads the entries from first on up to one whose checksum is known, or last, and
// returns the checksum of the first.
func (c *history) readSums(first, last uint64) (entrySum, bool) {
	end := first
	for end < last {
		if _, ok := c.entrySums.get(end + 1); ok {
			break
		}
		end++
	}
	for _, e := range c.durableEntries(first, end) {
		c.entrySums.put(sumOf(&e))
	}
	return c.entrySums.get(first)
}

// sumsOf returns the sums of entries that follow each other.
func sumsOf(entries []raftpb.Entry) Sums {
	list := make([]entrySum, len(entries))
	for i := range entries {
		list[i] = sumOf(&entries[i])
	}
	return sumsOver(list)
}

// sumsOver returns the sums of entries that follow each other from their checksums.
func sumsOver(entries []entrySum) (sums Sums) {
	for i, n := range windows {
		if uint64(len(entries)) < n {
			break
		}
		sum := uint64(0)
		for _, e := range entries[uint64(len(entries))-n:] {
			sum = multiply(e.shift, sum) ^ e.sum
		}
		sums[i] = max(1, sum)
	}
	return sums
}

func sumOf(e *raftpb.Entry) entrySum {
	head := binary.LittleEndian.AppendUint64(nil, e.Index)
	head = binary.LittleEndian.AppendUint64(head, e.Term)
	head = append(head, byte(e.Type))
	sum := crc64.Update(crc64.Update(0, sumTable, head), sumTable, e.Data)
	return entrySum{e.Index, sum, shiftBy(uint64(len(head) + len(e.Data)))}
}

// multiply multiplies two polynomials modulo that of the sums. The highest bit is x to the
// power of 0, as in a CRC that takes the lowest bit of each byte first.
func multiply(a, b uint64) (product uint64) {
	for bit := uint64(1) << 63; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		carry := b & 1
		b >>= 1
		if carry != 0 {
			b ^= crc64.ECMA
		}
	}
	return product
}

// shiftBy is x to the power of so many bytes' bits.
func shiftBy(bytes uint64) uint64 {
	power, square := uint64(1)<<63, uint64(1)<<(63-8)
	for ; bytes > 0; bytes >>= 1 {
		if bytes&1 != 0 {
			power = multiply(power, square)
		}
		square = multiply(square, square)
	}
	return power
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
