package sim

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/TESTING.md lists every fault, in their order, and every invariant.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/TESTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "### What is drawn")
	drawn, rest, _ := strings.Cut(rest, "### What must hold")
	hold, _, _ := strings.Cut(rest, "\n## ")
	if rows := firstColumn(drawn); !slices.Equal(rows, FaultNames()) {
		t.Errorf("docs/TESTING.md, What is drawn: the faults are\n%q, and the table has\n%q", FaultNames(), rows)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	rows, names := firstColumn(hold), []string{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\.fail\("([^"]+)"`).FindAllSubmatch(source, -1) {
			names = append(names, string(m[1]))
		}
	}
	for _, name := range names {
		if !slices.Contains(rows, name) {
			t.Errorf("docs/TESTING.md, What must hold: no row for %q", name)
		}
	}
	for _, name := range rows {
		if !slices.Contains(names, name) {
			t.Errorf("docs/TESTING.md, What must hold: %q, which nobody checks", name)
		}
	}
}

// firstColumn lists what is in the first column of a table, if it is code.
func firstColumn(text string) []string {
	var list []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}
