package core

import (
	"slices"

	octopiipb "github.com/octopii/octopii/proto"
)

// The terms of the committed log travel with its snapshots, as the entries that have them
// do not stay. A member whose committed entries are compacted everywhere else finds out by
// them that it is on another branch, before a snapshot takes the place of its log.

// termsMax bounds how many terms are kept: the newest ones. An older place is not compared.
const termsMax = 512

// withTerm returns terms for a log that goes on at an index in a term.
func withTerm(terms []octopiipb.TermStart, index, term uint64) []octopiipb.TermStart {
	if n := len(terms); n > 0 && terms[n-1].Term >= term {
		return terms
	}
	terms = terms[max(0, len(terms)-termsMax+1):]
	return append(slices.Clone(terms), octopiipb.TermStart{First: index, Term: term}) // labels have the other
}

// termsUpTo returns those that begin at most at an index.
func termsUpTo(terms []octopiipb.TermStart, index uint64) []octopiipb.TermStart {
	n := 0
	for n < len(terms) && terms[n].First <= index {
		n++
	}
	return terms[:n]
}

// Terms are those of what was handed out in Effects.Apply. They must not be changed.
func (c *history) Terms() []octopiipb.TermStart { return c.handed.Terms }

// PartsFrom returns the first index at which a committed log up to last, of these terms, is
// another one than what was handed out here, as far as terms tell; that may be the index after
// the shorter one.
func (c *history) PartsFrom(terms []octopiipb.TermStart, last uint64) uint64 {
	terms = terms[max(0, len(terms)-termsMax):]
	end := min(last, c.handed.Index)
	parts := end + 1
	for _, list := range [][]octopiipb.TermStart{terms, c.handed.Terms} {
		for _, t := range list { // two logs can differ first where one of them begins a term
			mine, other := TermIn(c.handed.Terms, c.handed.Index, t.First), TermIn(terms, last, t.First)
			if mine != 0 && other != 0 && mine != other {
				parts = min(parts, t.First)
			}
		}
	}
	return parts
}

// TermIn returns the term of an index of the log that terms describe, up to last; 0 if they
// do not say.
func TermIn(terms []octopiipb.TermStart, last, index uint64) uint64 {
	terms = termsUpTo(terms, index)
	if len(terms) == 0 || index > last {
		return 0
	}
	return terms[len(terms)-1].Term
}
