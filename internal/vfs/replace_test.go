package vfs_test

import (
	"testing"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// After a crash a file that is replaced is the old one until PutInPlace, and the new one
// after it.
func TestReplace(t *testing.T) {
	m := vfstest.NewMem()
	if err := m.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	if err := vfs.Replace(m, "/d/file", []byte("old")); err != nil {
		t.Fatal(err)
	}
	expect := func(when, want string) {
		t.Helper()
		for after := range m.Crashes() {
			if found := string(after.ReadFile("/d/file")); found != want {
				t.Errorf("a crash %s leaves %q; want %q", when, found, want)
			}
		}
	}
	expect("after the first file", "old")
	if err := vfs.Prepare(m, "/d/file", []byte("new")); err != nil {
		t.Fatal(err)
	}
	expect("after Prepare", "old")
	if err := vfs.PutInPlace(m, "/d/file"); err != nil {
		t.Fatal(err)
	}
	expect("after PutInPlace", "new")
	if err := vfs.Replace(m, "/d/file", []byte("newer")); err != nil {
		t.Fatal(err)
	}
	expect("after Replace", "newer")
	if err := vfs.ReplaceSoon(m, "/d/file", []byte("last")); err != nil {
		t.Fatal(err)
	}
	if got := string(m.ReadFile("/d/file")); got != "last" {
		t.Errorf("after ReplaceSoon it is %q", got)
	}
}
