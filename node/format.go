package node

import (
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// The range of format levels that this version reads, of what members replicate and store. A
// member says it to its peers in the handshake (transport.Host), and the leader raises the
// level of the cluster when all have said that they read the next one: see core.Formats. A
// new version that writes what the one before it does not know reads one level more, and has
// what is new in the tables of core/levels.go and of raftstore/sections.go.
const (
	oldestFormat = 1
	newestFormat = 1
)

// formatsOf is what a process says that it reads. One that does not say reads level 1.
func formatsOf(h transport.Host) core.Formats {
	if h.NewestFormat == 0 {
		return core.Formats{Oldest: 1, Newest: 1}
	}
	return core.Formats{Oldest: h.OldestFormat, Newest: h.NewestFormat}
}

// formatError gives an error about the format level the name that callers know it by.
func formatError(err error) error {
	var level *core.LevelError
	if errors.As(err, &level) && !errors.Is(err, ErrFormatLevel) {
		return fmt.Errorf("%w: %w", ErrFormatLevel, err)
	}
	return err
}

// readsLevel says why this member cannot be one of a cluster with such settings.
func (g *group) readsLevel(s octopiipb.Settings) error {
	return formatError(g.cfg.formats.Check(g.id, s.Level()))
}

// peerReadsLevel says the same of a peer and this member's cluster. While this one belongs to
// none, there is nothing to say.
func (g *group) peerReadsLevel(peer transport.Hello) error {
	ms := g.members.Load()
	if ms == nil {
		return nil
	}
	return formatError(formatsOf(peer.Host).Check(peer.Node, ms.Settings.Level()))
}

// formatRefused takes it from a peer that it refuses this member, as the program of this one
// does not read the level of the cluster. It ends a member that has no log and waits for a
// leader: there is nothing to lose. One that asks to join is told by those that it asks, and
// one with a log reads all that is in it, and may have been told by a stranger.
func (t trust) formatRefused(peer transport.Hello, reason string) {
	err := fmt.Errorf("%w: member %x says: %s", ErrFormatLevel, peer.Node, strings.TrimPrefix(reason, ErrFormatLevel.Error()+": "))
	if t.members.Load() == nil && len(t.cfg.Join) == 0 {
		t.fatal(err)
		return
	}
	t.warnSome(&t.quiet.refusals, "a member refuses this one", zap.Error(err))
}

// foundingLevel is the highest format level that all read that are to found a cluster.
func foundingLevel(id uint64, reads core.Formats, others []foundAnswer) (uint32, error) {
	newest := reads.Newest
	for _, a := range others {
		newest = min(newest, a.formats.Newest)
	}
	if err := reads.Check(id, newest); err != nil {
		return 0, formatError(err)
	}
	for _, a := range others {
		if err := a.formats.Check(a.record.ID, newest); err != nil {
			return 0, formatError(err)
		}
	}
	return newest, nil
}
