package selfheal

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFacing(t *testing.T) {
	claim := Rival{Claims: true, Voters: 3, Age: time.Minute}
	with := func(change func(*Rival)) Rival {
		r := claim
		change(&r)
		return r
	}
	vouched := func(change func(*Rival)) Rival {
		return with(func(r *Rival) { r.Vouched = true; change(r) })
	}
	for name, test := range map[string]struct {
		r    Rival
		want Stand
	}{
		"one member says so":                                 {claim, Suspend},
		"a mistaken record":                                  {with(func(r *Rival) { r.Claims = false }), Ignore},
		"a cluster of one says so":                           {with(func(r *Rival) { r.Voters = 1 }), Ignore},
		"it says so of an old cluster":                       {with(func(r *Rival) { r.Age = time.Hour * 99 }), Suspend},
		"a stranger says so to a young two":                  {with(func(r *Rival) { r.Others = 1 }), Suspend},
		"to a young three":                                   {with(func(r *Rival) { r.Others = 2 }), Suspend},
		"which shares an address":                            {with(func(r *Rival) { r.Others, r.Shared = 1, true }), Suspend},
		"a stranger says so to an old two":                   {with(func(r *Rival) { r.Others, r.Age = 1, 2*time.Hour }), Report},
		"to one that did not found its two":                  {with(func(r *Rival) { r.Others, r.Age = 1, -1 }), Report},
		"a mistaken record of a young two":                   {with(func(r *Rival) { r.Others, r.Claims = 1, false }), Ignore},
		"one of three that is known says so to an old two":   {with(func(r *Rival) { r.Others, r.Trusted, r.Witnesses, r.Age = 1, true, 1, -1 }), Report},
		"and says that a majority does":                      {vouched(func(r *Rival) { r.Others, r.Trusted, r.Witnesses, r.Age = 1, true, 1, -1 }), Report},
		"two of three that are known say so to an old five":  {with(func(r *Rival) { r.Others, r.Trusted, r.Witnesses, r.Age = 4, true, 2, -1 }), Report},
		"two of three that are known say so to an old three": {with(func(r *Rival) { r.Others, r.Trusted, r.Witnesses, r.Age = 2, true, 2, -1 }), Suspend},
		"somebody known says so to two":                      {with(func(r *Rival) { r.Others, r.Trusted = 1, true }), Suspend},
		"a majority says so":                                 {vouched(func(*Rival) {}), GiveWay},
		"a majority says no":                                 {vouched(func(r *Rival) { r.Claims = false }), Serve},
		"a majority of one":                                  {vouched(func(r *Rival) { r.Voters = 1 }), Serve},
		"a majority says so to an old cluster":               {vouched(func(r *Rival) { r.Age = 2 * time.Hour }), Suspend},
		"of which the age is not known":                      {vouched(func(r *Rival) { r.Age = -1 }), Suspend},
		"a known majority says so to an old one":             {vouched(func(r *Rival) { r.Age, r.Trusted = 2*time.Hour, true }), GiveWay},
		"each has a member of the other":                     {vouched(func(r *Rival) { r.Shared = true }), Suspend},
		"even if certificates prove it":                      {vouched(func(r *Rival) { r.Shared, r.Trusted = true, true }), Suspend},
		"a majority of strangers says so to two":             {vouched(func(r *Rival) { r.Others, r.Age = 1, 2*time.Hour }), Report},
		"and to a young two":                                 {vouched(func(r *Rival) { r.Others = 1 }), Suspend},
		"which is shared":                                    {vouched(func(r *Rival) { r.Others, r.Shared = 1, true }), Suspend},
		"a majority of strangers says no to two":             {vouched(func(r *Rival) { r.Others, r.Claims = 1, false }), Serve},
		"a majority that is known says so to two":            {vouched(func(r *Rival) { r.Others, r.Trusted = 1, true }), Suspend},
		"a majority that is known says no to many":           {vouched(func(r *Rival) { r.Others, r.Trusted, r.Claims = 4, true, false }), Serve},
	} {
		if got, why := Facing(test.r); got != test.want {
			t.Errorf("%s: %d (%s); want %d", name, got, why, test.want)
		}
	}
}

func TestAlone(t *testing.T) {
	empty, silent := Answer{Asked: "b", Member: Member{2, "b"}}, Answer{Asked: "c", Failure: "refused"}
	member := Answer{Asked: "d", Member: Member{4, "d"}, Cluster: 7}
	was := Answer{Asked: "e", Member: Member{5, "e"}, WasMember: true}
	for name, test := range map[string]struct {
		answers  []Answer
		listened bool
		want     Step
	}{
		"nobody to ask":         {nil, true, Found},
		"it has not listened":   {[]Answer{empty}, false, Wait},
		"nobody knows a thing":  {[]Answer{empty}, true, Found},
		"one does not answer":   {[]Answer{empty, silent}, true, Wait},
		"nobody answers":        {[]Answer{silent}, true, Wait},
		"one is a member":       {[]Answer{empty, silent, was, member}, false, Join},
		"one was a member":      {[]Answer{empty, was}, true, Wait},
		"two that would, alone": {[]Answer{was}, true, Wait},
	} {
		got, why := Alone(test.answers, test.listened)
		if got != test.want {
			t.Errorf("%s: %d (%s); want %d", name, got, why, test.want)
		}
		if slices.Contains(test.answers, silent) && got == Wait && !strings.Contains(why, "c does not answer (refused)") {
			t.Errorf("%s: it waits, and says %q; want who does not answer", name, why)
		}
	}
}
