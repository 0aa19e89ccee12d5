package node

import (
	"fmt"
	"time"

	"github.com/octopii/octopii/transport"
)

// What callers, peers or strangers can make grow has a bound, and an outcome when it is
// reached:
//
//	what                                       at most                            then
//	proposals that wait here                   PendingProposalsMax, -BytesMax     ErrOverloaded
//	proposals of followers at a leader         forwardsOfPending * -BytesMax      ErrOverloaded there
//	log that a leader has not committed        uncommittedOfPending * -BytesMax   ErrOverloaded
//	commands without room where they apply     the room of a majority             held back, or ErrNoSpace
//	one proposal                               ProposalBytesMax                   ErrTooLarge
//	appends on their way to one follower       InflightMessagesMax of             raft waits
//	                                           MessageBytesMax each
//	what peers queued for the loop             inboxItemsMax, inboxBytesMax       dropped, raft repeats it
//	appends in one write                       groupBytesMax                      the rest in the next
//	committed entries on their way to Apply    unappliedBytesMax                  they stay in the log
//	entries in one Apply                       applyEntriesMax                    the rest in the next
//	events that nobody has seen                eventsMax                          the oldest go
//	questions that wait for a barrier          vouchAskersMax                     ask again
//	peers that are no members                  guestsMax                          the oldest goes
//	branches that are told of                  branchesMax                        the oldest goes
//	peers of later that are asked              laterMax                           one that proves nothing goes
//	members whose history was given up         givenUpMax                         the oldest goes
//
// What a connection, a frame or all strangers may have is the transport's: see tcp.Config. Bounds
// of one subject stand with it: of joiners, changes and forwarded requests in core, of rounds
// and rivals in founding.go and othercluster.go. At
// the defaults a leader holds 64 MiB of its own callers' proposals, 128 MiB of its
// followers', and 192 MiB of log that is not committed.
const (
	// forwardsOfPending is how many times Config.PendingBytesMax the proposals of all
	// followers may take at a leader.
	forwardsOfPending = 2
	// uncommittedOfPending is how many times as much a leader appends ahead of what is
	// committed: all that may wait, at once. Callers that give up must not make the log grow.
	uncommittedOfPending = forwardsOfPending + 1
	// inboxItemsMax and inboxBytesMax bound what peers may have queued for the loop.
	inboxItemsMax = 1 << 16
	inboxBytesMax = 128 << 20
	// groupBytesMax is the size at which a group of appends is written. What waited
	// for a full disk must not ask for all of its room at once.
	groupBytesMax = 8 << 20
	// unappliedBytesMax bounds the entries that were handed out to be applied.
	unappliedBytesMax = 16 << 20
	// applyEntriesMax bounds what is given to one call of Apply, so that it does not
	// keep a snapshot or the callers of the first entries waiting.
	applyEntriesMax = 4096
	// eventsMax bounds the events that wait for a user that is slow.
	eventsMax = 1024
	// vouchAskersMax bounds the members that wait for a statement at once.
	vouchAskersMax = 64
	// guestsMax bounds those that are remembered although they are no members as far as this
	// member knows. There may be one, the leader that a later membership has.
	guestsMax = 16
	// branchesMax bounds the branches that are remembered; the newest are.
	branchesMax = 8
	// laterMax bounds the peers that name this cluster, that the records do not have, and that
	// are asked what they have.
	laterMax = 8
	// givenUpMax bounds the members of which is remembered that an operator gave up what they
	// have.
	givenUpMax = 64
	// sealsMax is for how many of the voters that a question names its answer is sealed: no
	// cluster has more.
	sealsMax = 64
	// appendBytesMax is what every log takes at once: wal's frame.
	appendBytesMax = 1 << 30
)

// What a proposal needs beside its own bytes, at most: its frame in the log and the
// name of who forwarded it, the fields of an entry, and those of the message with it.
const (
	entryOverhead   = 64
	messageOverhead = 1 << 10
)

// checkLimits compares the bounds of all layers, which would else be found out one by
// one by calls that time out. It is called with the defaults filled in.
func (cfg *Config) checkLimits() error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"TickInterval", int64(cfg.TickInterval)},
		{"HeartbeatTicks", int64(cfg.HeartbeatTicks)},
		{"ElectionTicks", int64(cfg.ElectionTicks)},
		{"ProposalBytesMax", int64(cfg.ProposalBytesMax)},
		{"PendingProposalsMax", int64(cfg.PendingProposalsMax)},
		{"PendingBytesMax", cfg.PendingBytesMax},
		{"InflightMessagesMax", int64(cfg.InflightMessagesMax)},
		{"PromoteStableTicks", int64(cfg.PromoteStableTicks)},
		{"JoinTimeoutTicks", int64(cfg.JoinTimeoutTicks)},
	} {
		if f.value < 0 {
			return fmt.Errorf("node: Config.%s %d is negative; 0 is the default", f.name, f.value)
		}
	}
	switch {
	case cfg.TickInterval < time.Millisecond:
		return fmt.Errorf("node: Config.TickInterval %v is less than 1 ms", cfg.TickInterval)
	case cfg.ElectionTicks <= cfg.HeartbeatTicks:
		return fmt.Errorf("node: Config.ElectionTicks %d must be above HeartbeatTicks %d", cfg.ElectionTicks, cfg.HeartbeatTicks)
	case int64(cfg.ProposalBytesMax) > cfg.PendingBytesMax:
		return fmt.Errorf("node: Config.ProposalBytesMax %d is above PendingBytesMax %d: a proposal of that size would always be refused", cfg.ProposalBytesMax, cfg.PendingBytesMax)
	case cfg.PendingBytesMax > appendBytesMax/uncommittedOfPending:
		return fmt.Errorf("node: Config.PendingBytesMax %d is above %d: a leader may append %d times as much at once, and a log takes %d bytes",
			cfg.PendingBytesMax, appendBytesMax/uncommittedOfPending, uncommittedOfPending, appendBytesMax)
	}
	return cfg.checkTransport()
}

// checkTransport holds what messages may need against what the transport takes.
func (cfg *Config) checkTransport() error {
	limit, ok := transportLimit(cfg.Transport)
	if need := int64(cfg.ProposalBytesMax) + entryOverhead + messageOverhead; ok && need > limit {
		return fmt.Errorf("node: Config.ProposalBytesMax %d needs messages of %d bytes, and the transport takes %d: every larger proposal would time out; lower it, or raise the bound of the transport (tcp.Config.FrameBytesMax and QueueBytesMax) on all members",
			cfg.ProposalBytesMax, need, limit)
	}
	if most := messageBytesFor(limit); ok && cfg.MessageBytesMax > most {
		return fmt.Errorf("node: Config.MessageBytesMax %d is above %d, which is what the transport's bound of %d bytes a message leaves room for; lower it, or raise that",
			cfg.MessageBytesMax, most, limit)
	}
	return nil
}

// messageBytesFor is how many bytes of entries a message may have that is within a
// limit: each entry, however small, has its head beside it.
func messageBytesFor(limit int64) uint64 { return uint64(max(1, (limit-messageOverhead)/3*2)) }

// transportLimit is what a transport says that it takes.
func transportLimit(t transport.Transport) (int64, bool) {
	if b, ok := t.(transport.Bounded); ok {
		return b.MessageBytesMax(), true
	}
	return 0, false
}

// boundedDefaults fills in the bounds whose defaults depend on others.
func (cfg *Config) boundedDefaults() {
	zero(&cfg.PendingBytesMax, 64<<20)
	zero(&cfg.ProposalBytesMax, int(min(3<<19, max(1, cfg.PendingBytesMax))))
	message := uint64(1 << 20)
	if limit, ok := transportLimit(cfg.Transport); ok {
		message = min(message, messageBytesFor(limit))
	}
	zero(&cfg.MessageBytesMax, message)
}
