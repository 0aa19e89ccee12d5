// Package core decides everything that a Node does, and does nothing itself.
//
// Step takes what happened (ticks, messages, requests, completions) and leaves
// in Effects what must be done about it: messages to send, one append, one
// apply, answers. It drives raft's RawNode with asynchronous storage writes, so
// the library itself says which message must wait for which fsync. There is no
// clock, goroutine, file, socket or random source in here: the same inputs give
// the same effects, and a simulator can drive the code that ships.
package core
