package core

import (
	"errors"
	"fmt"
	"testing"
)

// pinned are the numbers that members of other versions know. A number that is
// in this table never gets another meaning; a new error gets a new number.
var pinned = []struct {
	code uint32
	err  error
}{
	{0, nil},
	{1, ErrNotCommitted},
	{2, ErrUnknownOutcome},
	{3, ErrOverloaded},
	{4, ErrMembershipBusy},
	{5, ErrUnsafeMembership},
	{6, ErrIDReused},
	{7, ErrNoTarget},
	{8, errNotLeader},
	{9, ErrNoSpace},
	{10, errTaken},
	{11, ErrForgot},
}

func TestCodesArePinned(t *testing.T) {
	if len(codes) != len(pinned) {
		t.Errorf("there are %d codes and %d pinned here: add the new ones to the table, and change none", len(codes), len(pinned))
	}
	for _, p := range pinned {
		if got := Code(p.err); got != p.code {
			t.Errorf("Code(%v) = %d, want %d: members of other versions know it by that number", p.err, got, p.code)
		}
		if got := FromCode(p.code, ""); got != p.err {
			t.Errorf("FromCode(%d) = %v, want %v", p.code, got, p.err)
		}
	}
}

func TestErrorsTravel(t *testing.T) {
	for _, p := range pinned[1:] {
		sent := fmt.Errorf("member 7 said: %w", p.err)
		got := FromCode(Code(sent), sent.Error())
		if !errors.Is(got, p.err) || got.Error() != sent.Error() {
			t.Errorf("%q arrived as %q, errors.Is %v: want the same text and kind", sent, got, errors.Is(got, p.err))
		}
		if got := FromCode(p.code, p.err.Error()); got != p.err {
			t.Errorf("%v with its own text arrived as %#v, want the error itself", p.err, got)
		}
	}
}

// What this version has no number for must never look like success, nor like a
// certain failure.
func TestUnknownErrorsHaveAnUnknownOutcome(t *testing.T) {
	if got := Code(errors.New("from another package")); got != 2 {
		t.Errorf("an error without a number travels as %d, want 2", got)
	}
	for _, code := range []uint32{uint32(len(codes)), 1000, 1<<32 - 1} {
		err := FromCode(code, "of a later version")
		if !errors.Is(err, ErrUnknownOutcome) || err.Error() != "of a later version" {
			t.Errorf("code %d arrived as %v, want ErrUnknownOutcome with its text", code, err)
		}
	}
	if err := FromCode(0, "text without an error"); err != nil {
		t.Errorf("code 0 arrived as %v, want nil", err)
	}
}
