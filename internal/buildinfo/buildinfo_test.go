package buildinfo

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestVersion(t *testing.T) {
	for want, c := range map[string]struct {
		module   string
		settings []debug.BuildSetting
	}{
		"unknown, go": {"", nil},
		"v1.2.3, commit abc, go": {"v1.2.3", []debug.BuildSetting{
			{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "false"}}},
		"(devel), commit abc with changes, go": {"(devel)", []debug.BuildSetting{
			{Key: "GOOS", Value: "linux"}, {Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}},
	} {
		if got := version(c.module, c.settings); !strings.HasPrefix(got, want) {
			t.Errorf("%q; want it to begin with %q", got, want)
		}
	}
	if Version() == "" {
		t.Error("a program that was built says nothing")
	}
}
