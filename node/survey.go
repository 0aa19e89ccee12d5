package node

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/selfheal"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// Before a member without a log joins or founds, it asks the addresses that it was told of
// what they are. If they are of two clusters, one of them is a second one, and which of
// them cannot be known here.

// surveyTicks is for how many ticks a survey waits for the addresses that do not answer,
// once one has that is of a cluster.
const surveyTicks = 10

// survey is one question to all addresses that a joiner may ask.
type survey struct {
	nonce []byte
	// left have not answered; age is for how many ticks it is under way.
	left, age int
	groups    []markGroup
	// others answered what does not say of which cluster they are, such as a refusal;
	// failed are the errors of those that did not answer.
	others []string
	failed []error
}

// markGroup are addresses of members of one cluster.
type markGroup struct {
	mark      string
	addresses []string
}

// nonceBytes is the length of a nonce.
const nonceBytes = 8

func newNonce() []byte { return binary.BigEndian.AppendUint64(nil, randomID()) }

// markOf is what a member answers to a nonce: it is the same for members of one cluster,
// and tells nothing else of it. nil: none was asked for.
func markOf(nonce []byte, cluster uint64) []byte {
	if len(nonce) != nonceBytes {
		return nil
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(slices.Clone(nonce), cluster))
	return sum[:16]
}

// begins prepares a round of asking. It returns false if there is nobody to ask yet.
func (j *joiner) begins() bool {
	addresses := j.loop.founding.toJoin()
	switch len(addresses) {
	case 0:
		return false
	case 1: // it cannot contradict itself
		j.round = addresses
		return true
	}
	j.surveyAll(addresses)
	return false
}

// surveyAll asks all addresses side by side of which cluster they are.
func (j *joiner) surveyAll(addresses []string) {
	l := j.loop
	s := &survey{nonce: newNonce(), left: len(addresses)}
	j.survey, j.asking = s, true
	for _, address := range addresses {
		l.call(address, kindFound, &octopiipb.FoundRequest{Member: l.self(), Nonce: s.nonce}, func(payload []byte, err error) {
			l.soon(func() { j.heard(s, address, payload, err) })
		})
	}
}

// surveyTick does not wait for ever for those that do not answer.
func (j *joiner) surveyTick(ticks int) {
	if s := j.survey; s != nil {
		if s.age += ticks; s.age >= surveyTicks && len(s.groups) > 0 {
			j.surveyed()
		}
	}
}

// heard takes one answer.
func (j *joiner) heard(s *survey, address string, payload []byte, err error) {
	if j.survey != s {
		return // it was not waited for
	}
	var refused *transport.RemoteError
	var r octopiipb.FoundReply
	if err == nil {
		err = r.Unmarshal(payload)
	}
	switch {
	case errors.As(err, &refused), err == nil && r.Cluster != 0 && len(r.Mark) == 0:
		s.others = append(s.others, address)
	case err != nil:
		s.failed = append(s.failed, err)
	case r.Cluster != 0 && !slices.Equal(r.Mark, markOf(s.nonce, j.loop.cfg.NotOf)):
		s.add(string(r.Mark), address)
	}
	if s.left--; s.left == 0 {
		j.surveyed()
	}
}

func (s *survey) add(mark, address string) {
	i := slices.IndexFunc(s.groups, func(g markGroup) bool { return g.mark == mark })
	if i < 0 {
		i = len(s.groups)
		s.groups = append(s.groups, markGroup{mark: mark})
	}
	s.groups[i].addresses = append(s.groups[i].addresses, address)
}

// surveyed asks the members of the one cluster that was found to let this one in. If there
// are two it joins neither.
func (j *joiner) surveyed() {
	s := j.survey
	l := j.loop
	j.survey, j.asking = nil, false
	switch {
	case l.core != nil:
		return
	case len(s.groups) > 1:
		l.log.Error("the addresses to join are of different clusters: this member joins none of them; correct --join, or name the cluster that is wrong with --not-of (Config.NotOf)",
			zap.Strings("of one cluster", s.groups[0].addresses), zap.Strings("of another", s.groups[1].addresses))
		j.rest()
		return
	case len(s.groups) == 1:
		j.round = append(s.groups[0].addresses, s.others...)
	default:
		j.round = s.others
	}
	if len(j.round) == 0 {
		l.log.Warn("could not ask to join, as no address is of a cluster; trying again",
			zap.Strings("asked", l.founding.toJoin()), zap.Error(errors.Join(s.failed...)))
		j.rest()
		return
	}
	j.tick(0)
}

// listenTick goes on for a member that would found alone: it listens for a cluster that
// takes it for a member, and asks the addresses that it was told of.
func (f *founding) listenTick(ticks int) {
	f.listen, f.wait = max(0, f.listen-ticks), max(0, f.wait-ticks)
	if f.wait == 0 && f.asking == 0 {
		f.ask(octopiipb.Round{}, f.listened)
	}
}

// listened goes on when all were asked.
func (f *founding) listened() {
	if f.origin.Member { // it was sought meanwhile
		return
	}
	var answers []selfheal.Answer
	for i := range f.answers {
		answers = append(answers, f.answers[i].Answer)
	}
	step, why := selfheal.Alone(answers, f.listen == 0)
	f.say(why)
	switch step {
	case selfheal.Found:
		f.loop.soon(f.foundAlone) // behind what came while it was decided
	case selfheal.Join:
		f.foundOthers()
	}
}

// foundOthers never founds from now on: a cluster is there.
func (f *founding) foundOthers() {
	o := f.origin
	o.Member, o.Addresses = true, slices.Clone(o.Addresses)
	for _, a := range f.answers {
		if a.Cluster != 0 && !slices.Contains(o.Addresses, a.Asked) && len(o.Addresses) < soughtMax {
			o.Addresses = append(o.Addresses, a.Asked)
		}
	}
	if f.keep(o) {
		f.loop.join.hurry()
	}
}
