package node

import (
	"strings"
	"testing"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/transport"
)

// Start refuses a configuration that cannot be meant, and says what is wrong.
func TestStartRefusesConfigurations(t *testing.T) {
	whole := func() Config {
		return Config{Name: "a", Dir: t.TempDir(), StateMachine: blank{}, Transport: localnet.New().Transport("a"), Bootstrap: true}
	}
	for want, change := range map[string]func(*Config){
		"Dir":          func(c *Config) { c.Dir = "" },
		"StateMachine": func(c *Config) { c.StateMachine = nil },
		"Transport":    func(c *Config) { c.Transport = nil },
		"Expect":       func(c *Config) { c.Bootstrap, c.Expect, c.Join = false, 3, []string{"b"} },
		"Bootstrap":    func(c *Config) { c.Expect, c.Join = 2, []string{"b"} },
		"ID":           func(c *Config) { c.ID = idMax + 1 },
		"Priority":     func(c *Config) { c.Priority = 1 << 40 },
	} {
		cfg := whole()
		change(&cfg)
		n, err := Start(cfg)
		if err == nil {
			_ = n.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want an error that names %s", err, want)
		}
	}
}

// A call that cannot be read, or is of a kind of a later version, is answered with an error, and
// brings nothing about.
func TestCallsThatCannotBeRead(t *testing.T) {
	n, err := Start(Config{Name: "a", Dir: t.TempDir(), StateMachine: blank{}, Transport: localnet.New().Transport("a"), Bootstrap: true})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if _, err := n.Propose(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	before := n.Status()
	for _, kind := range []transport.Kind{kindFound, kindCompare, kindVouch, kindTestify, kindJoin} {
		m, err := newHandler(n.group).HandleCall(t.Context(), transport.Hello{Node: 9, Call: true}, transport.Inbound{Kind: kind, Payload: []byte{0xff}})
		if err == nil {
			t.Errorf("kind %d: it is answered with %v", kind, m)
		}
	}
	if _, err := newHandler(n.group).HandleCall(t.Context(), transport.Hello{Node: 9, Call: true}, transport.Inbound{Kind: kindFound + 1}); err == nil || !strings.Contains(err.Error(), "calls of kind 8 are not known here") {
		t.Errorf("a call of a later version: %v, want an error that names its kind", err)
	}
	if after := n.Status(); after.Commit != before.Commit || after.Suspended != nil || len(after.Suspects) > 0 {
		t.Errorf("the status was %+v, and is %+v", before, after)
	}
}

// Who asks a follower is told whom to ask.
func TestNotLeaderNamesTheLeader(t *testing.T) {
	for want, leader := range map[string]Member{"none is known": {}, "ask member 1f at h:1": {ID: 0x1f, Address: "h:1"}} {
		if err := (&NotLeaderError{Leader: leader}).Error(); !strings.Contains(err, want) {
			t.Errorf("%q, want %q in it", err, want)
		}
	}
}
