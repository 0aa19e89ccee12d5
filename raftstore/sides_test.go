package raftstore

// sides is a store with both sides in one hand.
type sides struct {
	*files
	*Store
	*View
	*Writer
}

func openSides(opts Options) (sides, error) {
	s, v, w, err := Open(opts)
	if err != nil {
		return sides{}, err
	}
	return sides{s.files, s, v, w}, nil
}

func (s sides) Initialized() bool { return s.View.Initialized() }
