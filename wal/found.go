package wal

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// found is what a scan learns of the entries after an index: their terms, and where they are.
type found struct {
	after uint64
	// afterTerm is the term of the entry at after.
	afterTerm uint64
	terms     []TermRun
	index     index
}

// addEntries takes in the entries of a frame at p.
func (x *found) addEntries(p point, f *frame) error {
	x.index.add(p, f.kinds&kindTruncates != 0)
	if f.first > x.after {
		x.terms = cutTerms(x.terms, f.first)
	} else {
		x.terms = x.terms[:0]
	}
	lastTerm := uint64(0)
	err := f.eachEntry(func(e raftpb.Entry) {
		x.noteTerm(e.Index, e.Term)
		lastTerm = e.Term
		if n := len(x.terms); e.Index > x.after && (n == 0 || x.terms[n-1].Term != e.Term) {
			x.terms = append(x.terms, TermRun{First: e.Index, Term: e.Term})
		}
	})
	if err == nil && lastTerm != f.lastTerm {
		err = fmt.Errorf("the last of the entries has term %d, and not %d", lastTerm, f.lastTerm)
	}
	return err
}

func (x *found) noteTerm(index, term uint64) {
	if index == x.after {
		x.afterTerm = term
	}
}

// cutTerms drops what the runs say of entries from first on.
func cutTerms(runs []TermRun, first uint64) []TermRun {
	for len(runs) > 0 && runs[len(runs)-1].First >= first {
		runs = runs[:len(runs)-1]
	}
	return runs
}
