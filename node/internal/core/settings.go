package core

import (
	"errors"
	"fmt"
	"math"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// The settings of a cluster are part of its membership, and a change of one is an entry of
// its own. A conf change about nobody would leave a joint configuration, and one about
// anybody would say of a member what is not about it. raft needs to know nothing of a
// setting, so a change may come while a joint configuration is in force.

// Setting is what a change of the settings is about.
type Setting uint32

// The settings. Their numbers are in the log.
const (
	// FailoverByTimeout is 1 where an election waits for its timeout also if the leader's
	// process is dead, and 0 where it does not.
	FailoverByTimeout Setting = iota + 1
	// FormatLevel is the format level of the cluster, which the leader raises by one. See
	// levels.go.
	FormatLevel
)

// NewSettingChange returns the Request that gives a setting a value.
func NewSettingChange(s Setting, value uint64, w Waiter) Request {
	change := octopiipb.SettingChange{Setting: uint32(s), Value: value}
	b := make([]byte, forwardedHead+1+change.Size())
	b[forwardedHead] = frameSetting
	if _, err := change.MarshalTo(b[forwardedHead+1:]); err != nil {
		panic(fmt.Sprintf("core: change of setting %d cannot be written: %v", s, err)) // it has two numbers
	}
	return Request{Kind: ChangeSetting, Data: b, room: forwardedHead, Waiter: w}
}

// decodeSetting reads the frame of a change of a setting.
func decodeSetting(frame []byte) (octopiipb.SettingChange, error) {
	var c octopiipb.SettingChange
	if err := c.Unmarshal(frame[1:]); err != nil {
		return c, fmt.Errorf("change of a setting cannot be read: %w", err)
	}
	switch s := Setting(c.Setting); {
	case s == FailoverByTimeout && c.Value > 1:
		return c, fmt.Errorf("setting %d is on or off, and not %d", c.Setting, c.Value)
	case s == FormatLevel && (c.Value == 0 || c.Value > math.MaxUint32):
		return c, fmt.Errorf("there is no format level %d", c.Value)
	case s != FailoverByTimeout && s != FormatLevel:
		return c, fmt.Errorf("change of the unknown setting %d: was it written by a newer version?", s)
	}
	return c, nil
}

// withSetting returns the membership behind a change of a setting, or why no member makes
// it: errNoChange if the setting has that value. It is pure, and the same on every member.
func withSetting(ms *octopiipb.Membership, index uint64, c octopiipb.SettingChange) (*octopiipb.Membership, error) {
	next := *ms // what it shares with the one before nobody changes
	next.Index = index
	switch Setting(c.Setting) {
	case FailoverByTimeout:
		next.Settings.FailoverByTimeout = c.Value == 1
	case FormatLevel:
		level := uint64(ms.Settings.Level())
		if c.Value == level {
			return ms, errNoChange
		}
		if c.Value != level+1 {
			return ms, fmt.Errorf("%w: the format level is %d and rises by one, and not to %d", ErrUnsafeMembership, level, c.Value)
		}
		next.Settings.Format = uint32(c.Value)
	}
	if next.Settings == ms.Settings {
		return ms, errNoChange
	}
	return &next, nil
}

// settingEntry returns the entry for a change of a setting, if this leader appends one;
// otherwise the request is settled.
func (c *changes) settingEntry(it *request, before int) (raftpb.Entry, bool) {
	_, frame := unwrap(it.frame())
	change, err := decodeSetting(frame)
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrNotCommitted, err)
	case c.handed.Term != c.rn.BasicStatus().Term:
		// One of an earlier leader may be in the log before the first entry of this one.
		err = fmt.Errorf("%w: the leader was just elected and has not applied what was there before", ErrMembershipBusy)
	case c.confIndex > c.applied:
		err = c.errConfPending()
	default:
		_, err = withSetting(c.handed.Membership, c.last, change)
		if err == nil && Setting(change.Setting) == FormatLevel {
			err = c.mayRaise(uint32(change.Value))
		}
	}
	if err != nil {
		c.settleChange(it, err)
		return raftpb.Entry{}, false
	}
	c.confIndex = c.last + uint64(before) + 1
	return raftpb.Entry{Data: it.frame()}, true
}

// applySetting applies a committed change of a setting, or refuses it as every member does.
func (c *Core) applySetting(e *raftpb.Entry, frame []byte, w Waiter) {
	change, err := decodeSetting(frame)
	if err != nil {
		panic(fmt.Sprintf("core: committed entry %d was admitted: %v", e.Index, err))
	}
	next, err := withSetting(c.handed.Membership, e.Index, change)
	if err == nil {
		c.setConf(e, c.handed.ConfState, next)
	}
	if errors.Is(err, errNoChange) {
		err = nil
	}
	if w != nil {
		c.effects.Outcomes = append(c.effects.Outcomes, Outcome{Waiter: w, Err: err, Index: e.Index, Membership: c.handed.Membership})
	}
}
