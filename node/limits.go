package node

import (
	"fmt"
	"time"

	"github.com/octopii/octopii/transport"
)

// What a proposal needs beside its own bytes, at most: its frame in the log and the
// name of who forwarded it, the fields of an entry, and those of the message with it.
const (
	entryOverhead   = 64
	messageOverhead = 1 << 10
	// appendBytesMax is what every log takes at once: wal's frame.
	appendBytesMax = 1 << 30
	// appendsOfPending is how many times Config.PendingBytesMax a leader may append at
	// once: what waits there of its own callers, and four times as much of followers.
	appendsOfPending = 5
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
	case cfg.PendingBytesMax > appendBytesMax/appendsOfPending:
		return fmt.Errorf("node: Config.PendingBytesMax %d is above %d: a leader may append %d times as much at once, and a log takes %d bytes",
			cfg.PendingBytesMax, appendBytesMax/appendsOfPending, appendsOfPending, appendBytesMax)
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
