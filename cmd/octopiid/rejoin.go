package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport/tcp"
)

// A member whose disk forgot, or is damaged, is of no use to its cluster: its old ID
// is known to have promised what it cannot keep. Its files are put aside, and it joins
// again as a new member in the place of the old one, with the same command.

const (
	// rejoinPauseMin is the wait before the first attempt; it doubles after each.
	rejoinPauseMin = 200 * time.Millisecond
	rejoinPauseMax = time.Minute
	// soughtTimeout is for how long a member with an empty directory that would found, or
	// has nobody to ask, listens for those who take it for a member of theirs, which it was. It is longer than any member
	// waits between two attempts to reach another.
	soughtTimeout = 1500 * time.Millisecond
)

// serve runs a member until ctx ends, which is no error, or it stops by itself and
// cannot come back.
func serve(ctx context.Context, cfg config, lg *zap.Logger) error {
	for pause := rejoinPauseMin; ; pause = min(2*pause, rejoinPauseMax) {
		err := runMember(ctx, cfg, lg)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err := putAside(cfg, lg, err); err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// putAside moves the files of a member that stopped because of them out of the way. It
// returns cause if they are not the reason, or there is nobody to rebuild them from.
func putAside(cfg config, lg *zap.Logger, cause error) error {
	lost := errors.Is(cause, node.ErrAmnesia) || errors.Is(cause, node.ErrCorrupt) || errors.Is(cause, kv.ErrDamaged)
	// Whoever was given up before it came in may try again.
	never := (errors.Is(cause, node.ErrRemoved) || errors.Is(cause, node.ErrIDReused)) && !hasLog(cfg)
	hangs := errors.Is(cause, node.ErrDiskStalled) // nothing can be moved there
	if !lost && !never || hangs || len(readPeers(cfg).Peers)+len(cfg.Join) == 0 {
		return cause
	}
	aside := filepath.Join(cfg.DataDir, "quarantine", time.Now().UTC().Format("20060102T150405.000Z"))
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return errors.Join(cause, err)
	}
	for _, dir := range []string{cfg.nodeDir(), cfg.storeDir()} {
		if err := os.Rename(dir, filepath.Join(aside, filepath.Base(dir))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(cause, err)
		}
	}
	lg.Error("this member's files are put aside, and it joins again as a new member; remove them when it has caught up",
		zap.String("files", aside), zap.Error(cause))
	return nil
}

// hasLog says whether this member was ever part of a cluster.
func hasLog(cfg config) bool {
	logs, err := os.ReadDir(filepath.Join(cfg.nodeDir(), "wal"))
	return err != nil && !errors.Is(err, fs.ErrNotExist) || len(logs) > 0
}

// peers is what a member keeps of its cluster beside its files, for the day on which
// they are lost. Nothing depends on its being there, or up to date.
type peers struct {
	// Member is this one's ID, in hexadecimal.
	Member string `json:"member"`
	// Peers are where the others listen.
	Peers []string `json:"peers"`
}

// readPeers returns nothing if there is nothing that can be read.
func readPeers(cfg config) (p peers) {
	data, err := os.ReadFile(cfg.peersFile())
	if err != nil || json.Unmarshal(data, &p) != nil {
		return peers{}
	}
	return p
}

// writePeers keeps who the others are. One that was removed keeps who they were.
func writePeers(cfg config, id uint64, ms node.Membership) error {
	if _, ok := ms.Member(id); !ok {
		return nil
	}
	p := peers{Member: strconv.FormatUint(id, 16), Peers: []string{}}
	for _, m := range ms.Members {
		if m.ID != id {
			p.Peers = append(p.Peers, m.Address)
		}
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	temp := cfg.peersFile() + ".tmp"
	if err := os.WriteFile(temp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, cfg.peersFile())
}

// membershipChanged keeps the newest membership for keepPeers.
func (m *member) membershipChanged(ms node.Membership) {
	select {
	case <-m.memberships: // it is older
	default:
	}
	m.memberships <- ms // it is the only one that puts anything there
}

// keepPeers writes down who the others are.
func (m *member) keepPeers(ctx context.Context) {
	for {
		select {
		case ms := <-m.memberships:
			if err := writePeers(m.cfg, m.node.Status().ID, ms); err != nil {
				m.lg.Warn("cannot note where the other members are", zap.String("file", m.cfg.peersFile()), zap.Error(err))
			}
		case <-ctx.Done():
			return
		}
	}
}

// origin is how a member begins whose directory is empty.
type origin struct {
	bootstrap bool
	join      []string
	// rejoin, and replaces if it is known: it takes a place that it had.
	rejoin   bool
	replaces uint64
}

// origin finds out what a member was before. A founder that lost its disk must not
// found a second cluster: it has the addresses of the others beside its files, or else
// they will call it soon.
func (m *member) origin() (origin, error) {
	o := origin{bootstrap: m.cfg.Bootstrap, join: m.cfg.Join, rejoin: true}
	fresh, err := isFresh(m.cfg.nodeDir())
	if err != nil || !fresh {
		return o, err
	}
	if p := readPeers(m.cfg); len(p.Peers) > 0 {
		o.bootstrap, o.join = false, append(slices.Clone(p.Peers), m.cfg.Join...)
		o.replaces, _ = strconv.ParseUint(p.Member, 16, 64)
		m.lg.Warn("this directory belonged to a member that is no more; joining in its place",
			zap.String("member", p.Member), zap.Strings("asking", o.join), zap.String("known from", m.cfg.peersFile()))
		return o, nil
	}
	if m.cfg.FoundAtOnce || m.cfg.Wait || slices.ContainsFunc(m.cfg.Join, listens) {
		return o, nil
	}
	// It would found, or has nobody to ask.
	who, err := tcp.Sought(m.peerConfig(), soughtTimeout)
	if err != nil {
		return o, listenError("peer-addr", m.cfg.PeerAddr, err)
	}
	if who.Node != 0 {
		o.bootstrap, o.join, o.replaces = false, append([]string{who.Address}, m.cfg.Join...), who.To
		m.lg.Warn("a cluster seeks a member at this address; joining in its place",
			zap.String("member", fmt.Sprintf("%x", who.To)), zap.String("asking", who.Address))
	}
	return o, nil
}

// listens says whether anybody does at an address.
func listens(address string) bool {
	c, err := net.DialTimeout("tcp", address, soughtTimeout)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}
