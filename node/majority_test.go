package node_test

import (
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// Who is left of a cluster names the voters that are missing, in its status and once in its
// log, and no more when a majority is back.
func TestNoMajorityNamesWhoIsMissing(t *testing.T) {
	t.Parallel()
	ms := cluster(t, 3)
	if why := leader(t, ms...).Status().NoMajority(); why != "" {
		t.Fatalf("with all members there: %s", why)
	}
	ms[2].kill()
	leader(t, ms[:2]...)
	ms[1].kill()
	missing := func() string { return ms[0].Status().NoMajority() }
	eventually(t, "two members are missing", func() bool { return len(ms[0].Status().Missing) == 2 })
	for _, want := range []string{"1 of 3 voters are heard of, and 2 are needed", "n2 (2) at " + ms[1].addr + ", silent for ", "n3 (3) at " + ms[2].addr + ", silent for ", "start them"} {
		if !strings.Contains(missing(), want) {
			t.Errorf("it says %q, and not %q", missing(), want)
		}
	}

	ms[0].kill()
	core, logs := observer.New(zapcore.ErrorLevel)
	ms[0].cfg.Logger = zap.New(core)
	ms[0].start()
	eventually(t, "two members are missing after a restart", func() bool { return len(ms[0].Status().Missing) == 2 })
	if want := "n2 (2) at " + ms[1].addr + ", of which nothing came since this member started"; !strings.Contains(missing(), want) {
		t.Errorf("after a restart it says %q, and not %q", missing(), want)
	}
	silent := ms[0].Status().Missing[0].Silent
	eventually(t, "time passes", func() bool { return ms[0].Status().Missing[0].Silent >= 2*silent })
	if n := logs.FilterMessageSnippet("no majority").Len(); n != 1 {
		t.Errorf("%d lines in the log; want 1", n)
	}
	ms[1].start()
	leader(t, ms[:2]...)
	if why := missing(); why != "" {
		t.Errorf("with a majority: %s", why)
	}
}
