// Package wal is the write-ahead log that a member's raft state lives in.
//
// It holds the words that raftstore and every backend share, the interface
// between them, and the native backend: New. wal/etcdwal keeps the log in etcd's
// format.
//
// # What the native log promises
//
// What Append acknowledged is there when the log is opened again, or Open says
// which of it is not: it is never cut off, never skipped, never read wrongly. The
// one thing that a single disk cannot tell is whether whole sectors that are
// missing from the very last write were lost before the write was acknowledged,
// as after a crash, or after. A log that was idle for a moment or was closed has
// an end mark, and is not in doubt at all.
//
// # Format
//
// A log is a directory of segments, <sequence>.seg, all of one size; beside them
// spares, which are ready to become the next segment, and a lock. docs/FORMATS.md
// has every byte.
//
//	segment   | header | begin | frame   frame | frame | ... | end mark |
//	blocks    0        1       2               4       5                    4096 bytes each
//
//	sector    | checksum | life | place | frame | 496 bytes |               512 bytes each
//
//	frame     | sequence | checksum of the frame before | length | kinds | count |
//	          | first index | last index | last term | hard state |
//	          | marks | entries: term, type, length, data |
//
// Every write is one frame: the batches of one Append, made one run of entries.
// It begins on a block of its own, so that no block is written again once what is
// in it was acknowledged. Each of its sectors has a checksum, salted with a number
// that is drawn for the log, over the life of the file (the sequence of the
// segment), its place in it, and the frame's number: a sector tells by itself
// whether it was written here, now, and as a part of what.
//
// A frame is written only when the one before it is durable. Its presence, even
// that of one sector, is therefore the proof that the one before it was whole, and
// a later segment proves the earlier. An end mark stands where the next frame will
// be, and proves the last one.
//
// # Recovery
//
// Recovery reads frame by frame until there is none that is whole. In all but the
// newest segment that is damage. In the newest it looks at every sector from there
// to the end:
//
//	zero, or of an earlier life           never written
//	of the frame that should be there     part of a write
//	of a later frame                      proof: damage to what was acknowledged
//	anything else                         damage
//
// Without damage, what is there of the last write is wiped out: it was torn, and
// never acknowledged. With damage Open returns a CorruptError and changes nothing.
package wal
