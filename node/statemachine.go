package node

import "io"

// Entry is one committed proposal.
type Entry struct {
	// Index and Term are its place in the log. Indexes grow and have gaps: raft
	// itself writes entries that no state machine sees.
	Index, Term uint64
	// Data is what was given to Propose. It must not be changed, and it may be
	// kept.
	Data []byte
}

// StateMachine is what a Node replicates: the same entries in the same order
// on every member.
//
// All of its methods are called by one goroutine, one at a time. What Snapshot
// returned is the one exception: its WriteTo runs beside later calls of Apply.
//
// They must not wait for the Node: its verbs return ErrReentrant inside of them. What
// they start on other goroutines, and wait for, is not found out.
type StateMachine interface {
	// Durable returns the last index whose effects are on stable storage. ok is
	// false for a state machine that lives in memory: it is restored from a
	// snapshot and the log at every start. One that answers ok keeps its own
	// data: it is given only entries behind that index, and Octopii keeps no
	// snapshot file for it on this disk.
	//
	// The index must be stored in one transaction with the effects. If it is
	// behind them, entries are applied twice; if ahead, they are lost
	// (etcd issue 13766).
	Durable() (index uint64, ok bool)
	// Apply applies committed entries in order and returns one result for each;
	// a nil slice stands for no results at all. It must be deterministic: no
	// clock, no random source, no map order. A command that the state machine
	// rejects is a result; an error means that it cannot go on, and stops the
	// node. A panic ends the process.
	//
	// An entry on which Apply fails stops every member, and comes again at each
	// start: check commands before they are proposed, and also here. The same goes
	// for an entry whose result takes too much memory: results are kept until the
	// batch is done, also those that nobody waits for on this member.
	Apply(entries []Entry) (results [][]byte, err error)
	// Snapshot captures the state as of the last Apply. It must be quick, as
	// nothing is applied meanwhile: capture here, write in WriteTo.
	Snapshot() (Snapshot, error)
	// Restore replaces the whole state by what a Snapshot of any member wrote at
	// index. A durable state machine has that state, and index, on stable
	// storage when it returns. r may be a Releaser.
	Restore(index uint64, r io.Reader) error
}

// Snapshot is a captured state. WriteTo is called at most once, from a
// goroutine of its own; Close is called in every case, after WriteTo.
type Snapshot interface {
	io.WriterTo
	io.Closer
}

// Releaser is what the reader that Restore gets may be, too, for a durable state machine
// that has no room for the received file and its own beside each other.
type Releaser interface {
	// Bytes is how much space the file takes.
	Bytes() int64
	// Release has the space of the file given back from here on while it is read. dir is
	// where the state machine writes. If Restore fails then, or the process ends, the
	// snapshot is lost, and the member must come back as a new one; so only a member
	// without a vote may. An error says why the file stays whole, and Restore may go on.
	Release(dir string) error
}

// Limited is a StateMachine whose disk can fill. Where a majority of the voters has no room
// for what makes it grow, Propose returns ErrNoSpace for that, on every member, until there
// is some again; everything else goes on, and can make room. And a leader appends no more
// of it than those have room for: so none of them has in its log what it cannot apply.
//
// Where there is no room Apply may wait for some, and the log beside gives its own back
// meanwhile: Durable of such a state machine may be called by any goroutine, also beside
// Apply.
type Limited interface {
	// Room returns how many bytes of commands it has certainly room for behind those that
	// it has applied, each with 512 more, in the worst case that it knows; 0: there is
	// none for what makes it grow. If it is not 0, there must be room for one command of
	// any size, too. Any goroutine calls it, also beside Apply, and it must not wait.
	Room() int64
	// Grows says whether a command may make the state machine grow. Any goroutine calls
	// it. It depends on nothing but the command.
	Grows(command []byte) bool
}

// Positioned is a durable StateMachine that keeps the term of its last entry beside the
// index, in the same transaction. With it a Node finds out at its start that the state
// and the log are of two branches, as when an image of one of them was put back: it does
// not start then, with ErrDiverged. Without it only an index beyond the log shows that.
type Positioned interface {
	// Position returns what Durable does, and the term of the entry at that index; 0 if
	// it is not known.
	Position() (index, term uint64)
}
