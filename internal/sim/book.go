package sim

// book is the committed log, as the checker knows it from what members said and did.
type book struct {
	w *world
	// ledger is the committed log, from index 1. (The founder's snapshot is at 1.)
	ledger []entry
}

// entry is one of the committed log.
type entry struct {
	known bool
	term  uint64
	// by is the term in which it was known to be committed first: that of the leader that
	// committed it, or a later one.
	by      uint64
	command bool
	data    []byte // of a command, with the operation's number
	// chain and result are what the first member made of it.
	applied       bool
	chain, result uint64
	shown         string // the result, by that member
}

func (b *book) grow(index uint64) {
	for uint64(len(b.ledger)) <= index {
		b.ledger = append(b.ledger, entry{})
	}
}
