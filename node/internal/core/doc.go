// Package core decides everything that a Node does, and does nothing itself.
//
// Step takes what happened (ticks, messages, requests, completions) and leaves
// in Effects what must be done about it: messages to send, one append, one
// apply, answers. It drives raft's RawNode with asynchronous storage writes, so
// the library itself says which message must wait for which fsync. There is no
// clock, goroutine, file or socket in here, so a simulator can drive the code that ships.
// A Step is a function of the core's state, of its Input and of what its Storage has: it asks
// nobody else. So who records the Inputs of a process can step another core with them, and gets
// the same Effects (TestStepsAreReplayed). Election timeouts raft draws by itself, from the
// process's crypto/rand.Reader: a simulator puts a seeded one in its place, and a replay the
// recorded draws.
//
// A Core is layers, from the ground up; each owns its fields and knows only those below:
//
//	base      raft, and what is said of it             core.go
//	history   this member's log                        history.go, sums.go, terms.go, ownfirst.go
//	members   the others, and how far each is          members.go
//	reading   linearizable reads                       reads.go
//	guard     what must not reach raft                 guard.go, diverged.go, farewell.go
//	requests  what callers wait for                    requests.go, queue.go, follow.go, forwarded.go, pending.go, seen.go
//	space     how much may go into the log             room.go
//	changes   of the membership                        changes.go, places.go, settings.go, levels.go
//	leading   who should lead, and when to campaign    leadership.go, failover.go, stall.go
//
// Core is on top, and has what takes several of them: Step, and how entries are appended
// (lead.go) and applied (apply.go). membership.go is the arithmetic of changes, which every
// member does alike.
package core
