package selfheal

import (
	"testing"
	"time"
)

// Nothing founds unless all answer and all are empty, and one of them does.
func TestRound(t *testing.T) {
	a, b, c := Member{1, "a"}, Member{2, "b"}, Member{3, "c"}
	self := Answer{Member: a}
	empty := func(m Member) Answer { return Answer{Asked: m.Address, Member: m} }
	for name, test := range map[string]struct {
		self    Answer
		answers []Answer
		want    Step
	}{
		"all empty":        {self, []Answer{empty(b), empty(c)}, Found},
		"not the lowest":   {Answer{Member: c}, []Answer{empty(a), empty(b)}, Wait},
		"one silent":       {self, []Answer{empty(b), {Asked: "c", Failure: "refused"}}, Wait},
		"one is missing":   {self, []Answer{empty(b)}, Wait},
		"one twice":        {self, []Answer{empty(b), empty(b)}, Wait},
		"one was a member": {self, []Answer{empty(b), {Asked: "c", Member: c, WasMember: true}}, Wait},
		"a cluster":        {self, []Answer{{Asked: "b", Failure: "refused"}, {Asked: "c", Member: c, Cluster: 7}}, Join},
	} {
		if got, why := Round(test.self, test.answers, 3); got != test.want {
			t.Errorf("%s: step %d (%s); want %d", name, got, why, test.want)
		}
	}
}

func TestAside(t *testing.T) {
	for name, test := range map[string]struct {
		q    Quarantine
		want Verdict
	}{
		"an error that passes":  {Quarantine{Proven: true}, End},
		"lost, nobody answers":  {Quarantine{Cause: Lost}, AskAgain},
		"lost, proven":          {Quarantine{Cause: Lost, Proven: true}, PutAside},
		"again at once":         {Quarantine{Cause: Lost, Proven: true, Kept: 1, Newest: time.Second}, AskAgain},
		"again later":           {Quarantine{Cause: Lost, Proven: true, Kept: 1, Newest: time.Hour}, PutAside},
		"too often":             {Quarantine{Cause: Lost, Proven: true, Kept: KeptMax, Newest: time.Hour}, AskAgain},
		"removed, too often":    {Quarantine{Cause: Removed, Proven: true, Kept: KeptMax, Newest: time.Hour}, End},
		"no room beside them":   {Quarantine{Cause: Lost, Proven: true, Bytes: 7, Free: 6}, AskAgain},
		"room beside them":      {Quarantine{Cause: Lost, Proven: true, Bytes: 7, Free: 7}, PutAside},
		"given up before a log": {Quarantine{Cause: Refused}, PutAside},
		"foreign, not proven":   {Quarantine{Cause: Foreign}, AskAgain},
	} {
		if got, why := Aside(test.q); got != test.want {
			t.Errorf("%s: verdict %d (%s); want %d", name, got, why, test.want)
		}
	}
}
