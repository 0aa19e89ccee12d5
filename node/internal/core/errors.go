package core

import "errors"

// Why a request failed. Package node turns them into its own.
var (
	ErrNotCommitted     = errors.New("not committed")
	ErrUnknownOutcome   = errors.New("outcome unknown")
	ErrOverloaded       = errors.New("overloaded")
	ErrMembershipBusy   = errors.New("another membership change is under way")
	ErrUnsafeMembership = errors.New("unsafe membership change")
	ErrIDReused         = errors.New("the ID of a removed member")
	// ErrForgot: a member that asks to join had acknowledged entries under its ID.
	ErrForgot   = errors.New("the ID of a member that had a log")
	ErrNoTarget = errors.New("no member that could lead")
	ErrNoSpace  = errors.New("no space left for the log")
	// ErrTransferLost: the leader that was asked to hand over may be gone, or never
	// have heard of it.
	ErrTransferLost = errors.New("no answer of the leader that was asked to hand over")
)

// codes are the errors' numbers on the wire. They are never reused.
var codes = []error{
	1:  ErrNotCommitted,
	2:  ErrUnknownOutcome,
	3:  ErrOverloaded,
	4:  ErrMembershipBusy,
	5:  ErrUnsafeMembership,
	6:  ErrIDReused,
	7:  ErrNoTarget,
	8:  errNotLeader,
	9:  ErrNoSpace,
	10: errTaken,
	11: ErrForgot,
}

// Code returns the number under which err travels to another member.
func Code(err error) uint32 {
	if err == nil {
		return 0
	}
	for c, e := range codes {
		if e != nil && errors.Is(err, e) {
			return uint32(c)
		}
	}
	return 2 // what is not known has an unknown outcome
}

// FromCode returns the error that travelled as code, with its text.
func FromCode(code uint32, reason string) error {
	if code == 0 {
		return nil
	}
	base := ErrUnknownOutcome
	if int(code) < len(codes) {
		base = codes[code]
	}
	if reason == "" || reason == base.Error() {
		return base
	}
	return &remoteError{base: base, reason: reason}
}

// remoteError has the text that the leader gave to an error.
type remoteError struct {
	base   error
	reason string
}

func (e *remoteError) Error() string { return e.reason }
func (e *remoteError) Unwrap() error { return e.base }

// errNotLeader: the request reached a member that does not lead in its term, or came
// again under a number that was refused. It never gets to a caller: the request is
// certainly not in the log, and is sent again under another number.
var errNotLeader = errors.New("not the leader")

// errTaken: the request came again, and the leader has it. It never gets to a caller:
// the log will answer.
var errTaken = errors.New("the leader has it already")
