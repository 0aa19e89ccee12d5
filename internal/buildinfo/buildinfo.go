// Package buildinfo says which build of a program runs.
package buildinfo

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version returns the version of the module, the commit and whether the tree had changes
// beside it, as far as the Go tool recorded them, and what it was built with and for.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version("unknown", nil)
	}
	return version(info.Main.Version, info.Settings)
}

func version(module string, settings []debug.BuildSetting) string {
	if module == "" {
		module = "unknown"
	}
	text := module
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision":
			text += ", commit " + s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			text += " with changes"
		}
	}
	return fmt.Sprintf("%s, %s %s/%s", text, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
