package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/internal/selfheal"
	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport/tcp"
)

// A member whose disk forgot, or is damaged, or is an image from before its place was
// rebuilt, is of no use to its cluster: its old ID is known to have promised what it cannot
// keep, or is none any more. Its files are put aside, and it joins again as a new member in
// the place of the old one, with the same command.

const (
	// rejoinPauseMin is the wait before the next attempt; it doubles after each.
	rejoinPauseMin = 200 * time.Millisecond
	rejoinPauseMax = time.Minute
	// proofTimeout bounds one round of asking the others for a proof.
	proofTimeout = 10 * time.Second
)

// serve runs a member until ctx ends, which is no error, or it stops by itself and
// cannot come back. It has the data directory's lock all the while: nobody else starts on
// files that are about to be put aside.
func serve(ctx context.Context, cfg config, lg *zap.Logger, sv *supervisor) (err error) {
	lock, err := lockWhenFree(ctx, cfg, lg)
	if lock == nil {
		return err
	}
	defer func() {
		if !errors.Is(err, node.ErrDiskStalled) { // else the process ends, and waits for nothing
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := endAside(cfg); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	for pause := rejoinPauseMin; ; pause = min(2*pause, rejoinPauseMax) {
		err := runMember(ctx, cfg, lg, sv)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err := comeBack(ctx, cfg, lg, err); err != nil || ctx.Err() != nil {
			return err
		}
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// comeBack decides what becomes of a member that stopped because of cause: nil means that
// its files were put aside, and it starts again. It asks until a majority of the cluster
// answers, or ctx ends; selfheal.Aside decides.
func comeBack(ctx context.Context, cfg config, lg *zap.Logger, cause error) error {
	what := causeOf(cfg, cause)
	known := readPeers(cfg)
	var other *node.OtherClusterError
	if errors.As(cause, &other) {
		known = peersOf(other.Proof.Cluster, other.Proof.AtAddress, other.Proof.Members)
	}
	addresses := known.others(cfg)
	if what == selfheal.Passing || len(addresses) == 0 {
		return advise(cfg, cause)
	}
	for pause, said := rejoinPauseMin, ""; ; pause = min(2*pause, rejoinPauseMax) {
		var proof node.Proof
		var unproven error
		if what != selfheal.Refused {
			proof, unproven = prove(ctx, cfg, lg, known, addresses)
		}
		kept, newest := quarantined(cfg)
		verdict, why := selfheal.Aside(selfheal.Quarantine{Cause: what, Proven: unproven == nil,
			Rebuilt: proof.Removed && proof.AtAddress != 0, Kept: kept, Newest: newest})
		switch {
		case verdict == selfheal.End && why == "":
			return advise(cfg, cause)
		case verdict == selfheal.End:
			return errors.Join(errors.New(why), cause)
		case verdict == selfheal.PutAside:
			if what == selfheal.Removed {
				cause = fmt.Errorf("a majority has member %x in this one's place, which was rebuilt: these files are an older image of it: %w", proof.AtAddress, cause)
			}
			return putAside(cfg, lg, cause, other, known)
		}
		if said != why {
			said = why
			lg.Error("this member stopped and waits: "+why, zap.Strings("asking", addresses), zap.NamedError("answers", unproven), zap.Error(cause))
		}
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

// causeOf says what an error of a member means for its files. Only a failed checksum or
// structure, or the proof that the disk forgot, is damage: every other error may pass. A
// removed member asks whether its place was rebuilt, and ends if nobody says so.
func causeOf(cfg config, err error) selfheal.Cause {
	switch {
	case errors.Is(err, node.ErrDiskStalled): // nothing can be moved there
		return selfheal.Passing
	case vfs.MayPass(err): // it proves no damage, whatever it is joined with
		return selfheal.Passing
	case errors.Is(err, node.ErrAmnesia), errors.Is(err, node.ErrCorrupt), errors.Is(err, node.ErrDiverged), errors.Is(err, kv.ErrDamaged):
		return selfheal.Lost
	case errors.Is(err, node.ErrOtherCluster):
		return selfheal.Foreign
	case (errors.Is(err, node.ErrRemoved) || errors.Is(err, node.ErrIDReused)) && !hasLog(cfg):
		return selfheal.Refused // it was given up before it came in, and may try again
	case errors.Is(err, node.ErrRemoved):
		return selfheal.Removed
	}
	return selfheal.Passing
}

// advise adds what an operator can do about a removed member. The command that founded the
// cluster, with an empty directory, would found a second one.
func advise(cfg config, cause error) error {
	if !errors.Is(cause, node.ErrRemoved) {
		return cause
	}
	cause = fmt.Errorf("%w; that of the member that was removed is %s", cause, cfg.DataDir)
	if !cfg.Bootstrap {
		return cause
	}
	return fmt.Errorf("%w; start it with --join %s in the place of --bootstrap then, which would found a second cluster",
		cause, strings.Join(readPeers(cfg).Peers, ","))
}

// prove asks the others what a majority of the member's cluster states without it.
func prove(ctx context.Context, cfg config, lg *zap.Logger, known peers, addresses []string) (node.Proof, error) {
	caller, err := tcp.NewCaller(peerConfig(cfg, lg))
	if err != nil {
		return node.Proof{}, peerError(cfg, err)
	}
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	q := node.Question{Cluster: parseID(known.Cluster), Member: parseID(known.Member), Address: caller.Address()}
	proof, err := node.SeekProof(ctx, caller, q, addresses)
	return proof, errors.Join(err, caller.Close())
}

// quarantineDir holds what was put aside, a directory for each time.
func (c config) quarantineDir() string { return filepath.Join(c.DataDir, "quarantine") }

// quarantined counts what was put aside, and says how long ago it was last.
func quarantined(cfg config) (count int, newest time.Duration) {
	entries, err := os.ReadDir(cfg.quarantineDir())
	if err != nil {
		return 0, 0
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		// A clock that was set back makes one of the future: how old it is nobody knows.
		if age := time.Since(info.ModTime()).Abs(); count == 0 || age < newest {
			newest = age
		}
		count++
	}
	return count, newest
}

// partExt ends the name of a quarantine directory that does not have all files yet.
const partExt = ".part"

// putAside moves the files of a member out of the way. Nothing but comeBack calls it.
func putAside(cfg config, lg *zap.Logger, cause error, other *node.OtherClusterError, known peers) error {
	if other != nil { // first: who starts without a log must find its cluster
		if err := known.write(cfg); err != nil {
			return errors.Join(cause, err)
		}
	}
	aside := filepath.Join(cfg.quarantineDir(), time.Now().UTC().Format("20060102T150405.000Z"))
	if err := os.MkdirAll(aside+partExt, 0o700); err != nil {
		return errors.Join(cause, err)
	}
	if err := moveAside(cfg, aside+partExt); err != nil {
		return errors.Join(cause, err)
	}
	lg.Error("this member's files are put aside, and it joins again as a new member; remove them when it has caught up",
		zap.String("files", aside), zap.Error(cause))
	return nil
}

// moveAside moves what is there of a member's files to part, the log first, and takes part's
// extension away. It can be repeated after a crash.
func moveAside(cfg config, part string) error {
	for _, dir := range []string{cfg.nodeDir(), cfg.storeDir()} {
		if err := vfs.OS.Rename(dir, filepath.Join(part, filepath.Base(dir))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, dir := range []string{part, cfg.DataDir} {
		if err := vfs.OS.SyncDir(dir); err != nil {
			return err
		}
	}
	if err := vfs.OS.Rename(part, strings.TrimSuffix(part, partExt)); err != nil {
		return err
	}
	return vfs.OS.SyncDir(cfg.quarantineDir())
}

// endAside ends what a kill of putAside left: half of a member's files are of no use. Where
// nothing was moved yet the member decides anew.
func endAside(cfg config) error {
	entries, err := os.ReadDir(cfg.quarantineDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		part := filepath.Join(cfg.quarantineDir(), e.Name())
		if filepath.Ext(part) != partExt || os.Remove(part) == nil { // it was empty
			continue
		}
		err = errors.Join(err, moveAside(cfg, part))
	}
	return err
}

// hasLog says whether this member is part of a cluster, or may be: what cannot be read may
// have a log. One that was begun and not finished is none.
func hasLog(cfg config) bool {
	logs, err := os.ReadDir(filepath.Join(cfg.nodeDir(), "wal"))
	return err != nil && !errors.Is(err, fs.ErrNotExist) ||
		slices.ContainsFunc(logs, func(e fs.DirEntry) bool { return filepath.Ext(e.Name()) != ".tmp" })
}

// wasMember says whether the files beside an empty log are those of an older life: a
// member of a cluster was here, and none is founded. What cannot be read may be such files.
func wasMember(cfg config) bool {
	_, err := os.Stat(cfg.peersFile())
	kept, keptErr := os.ReadDir(cfg.quarantineDir())
	return !errors.Is(err, fs.ErrNotExist) || len(kept) > 0 || keptErr != nil && !errors.Is(keptErr, fs.ErrNotExist)
}

// peers is what a member keeps of its cluster beside its files, for the day on which
// they are lost. Nothing depends on its being there, or up to date.
type peers struct {
	// Cluster is the one it belongs to, and Member this one's ID, both in hexadecimal.
	Cluster string `json:"cluster"`
	Member  string `json:"member"`
	// Peers are where the others listen.
	Peers []string `json:"peers"`
}

func parseID(text string) uint64 {
	id, _ := strconv.ParseUint(text, 16, 64)
	return id
}

// peersOf lists the members of a cluster but one.
func peersOf(cluster, member uint64, members []node.Member) peers {
	p := peers{Cluster: strconv.FormatUint(cluster, 16), Member: strconv.FormatUint(member, 16), Peers: []string{}}
	for _, m := range members {
		if m.ID != member {
			p.Peers = append(p.Peers, m.Address)
		}
	}
	return p
}

// others are the addresses of other members that are recorded or configured.
func (p peers) others(cfg config) []string {
	var list []string
	for _, a := range slices.Concat(p.Peers, cfg.Join) {
		if !sameAddr(a, cfg.ownPeerAddr()) && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
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
func writePeers(cfg config, st node.Status, ms node.Membership) error {
	if _, ok := ms.Member(st.ID); !ok {
		return nil
	}
	return peersOf(st.Cluster, st.ID, ms.Members).write(cfg)
}

// write replaces the file as a whole.
func (p peers) write(cfg config) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return vfs.Replace(vfs.OS, cfg.peersFile(), append(data, '\n'))
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
			if err := writePeers(m.cfg, m.node.Status(), ms); err != nil {
				m.lg.Warn("cannot note where the other members are", zap.String("file", m.cfg.peersFile()), zap.Error(err))
			}
		case <-ctx.Done():
			return
		}
	}
}

// origin is how a member begins that has no log.
type origin struct {
	bootstrap bool
	expect    int
	join      []string
	// replaces is the member that it was, if it is known.
	replaces uint64
}

// origin finds out what a member was before. Whoever has no log is asked about its past at
// every start, whatever other files are there. One that was a member founds nothing: it
// asks those whose addresses it kept or that its command names, and listens for those that
// seek it, until one of them answers.
func (m *member) origin() origin {
	cfg := m.cfg
	o := origin{bootstrap: cfg.Bootstrap, expect: cfg.Expect, join: cfg.Join}
	if !wasMember(cfg) {
		return o
	}
	// Whoever was a member founds nothing, whatever is left of a log: one that is whole has no
	// use for it.
	o.bootstrap, o.expect = false, 0
	if hasLog(cfg) {
		return o
	}
	p := readPeers(cfg)
	o.join, o.replaces = p.others(cfg), parseID(p.Member)
	m.lg.Warn("this directory belonged to a member that is no more; joining in its place, and founding nothing: to found a new cluster, empty the whole directory",
		zap.String("data-dir", cfg.DataDir), zap.String("member", p.Member), zap.Strings("asking", o.join))
	return o
}
