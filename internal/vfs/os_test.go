package vfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
)

// lockerEnv makes the test binary a process that holds a lock until its input ends.
const lockerEnv = "VFS_TEST_LOCK"

func TestMain(m *testing.M) {
	if path := os.Getenv(lockerEnv); path != "" {
		lock, err := OS.Lock(path)
		fmt.Println("locked:", err)
		if err == nil {
			io.Copy(io.Discard, os.Stdin)
			lock.Close()
		}
		return
	}
	os.Exit(m.Run())
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCreateIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f := must[File](t)(OS.Create(path))
	check(t, f.Close())
	if _, err := OS.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second Create returned %v, want fs.ErrExist", err)
	}
	for name, open := range map[string]func(string) (File, error){"Open": OS.Open, "OpenReadWrite": OS.OpenReadWrite} {
		f, err := open(path + ".missing")
		if !errors.Is(err, fs.ErrNotExist) || f != nil {
			t.Errorf("%s of a missing file returned %v, %v; want nil, fs.ErrNotExist", name, f, err)
		}
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f := must[File](t)(OS.Create(path))
	must[int](t)(f.Write([]byte("abcdef")))
	must[int](t)(f.WriteAt([]byte("XY"), 2))
	check(t, f.Sync())
	check(t, f.Truncate(8))
	check(t, f.Sync())
	if n := must[int64](t)(f.Size()); n != 8 {
		t.Errorf("size %d after Truncate(8)", n)
	}
	check(t, f.Close())

	f = must[File](t)(OS.OpenReadWrite(path))
	must[int](t)(f.WriteAt([]byte("!"), 7))
	if got := must[[]byte](t)(io.ReadAll(f)); !bytes.Equal(got, []byte("abXYef\x00!")) {
		t.Errorf("content %q", got)
	}
	check(t, f.Close())

	f = must[File](t)(OS.Open(path))
	part := make([]byte, 3)
	must[int](t)(f.ReadAt(part, 1))
	if string(part) != "bXY" {
		t.Errorf("ReadAt(1) read %q", part)
	}
	if _, err := f.ReadAt(part, 8); err != io.EOF {
		t.Errorf("ReadAt at the end returned %v, want io.EOF", err)
	}
	if _, err := f.Write(part); err == nil {
		t.Error("a file from Open can be written")
	}
	check(t, f.Close())
	if err := f.Sync(); err == nil {
		t.Error("Sync of a closed file returned nil")
	}
}

func TestNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	check(t, OS.MkdirAll(dir))
	check(t, OS.MkdirAll(dir))
	for _, name := range []string{"z", "m", "a"} {
		f := must[File](t)(OS.Create(filepath.Join(dir, name)))
		must[int](t)(f.Write([]byte(name)))
		check(t, f.Close())
	}
	check(t, OS.SyncDir(dir))
	check(t, OS.Rename(filepath.Join(dir, "z"), filepath.Join(dir, "m")))
	check(t, OS.SyncDir(dir))
	if got, want := must[[]string](t)(OS.ReadDir(dir)), []string{"a", "m"}; !reflect.DeepEqual(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	if got := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "m"))); string(got) != "z" {
		t.Errorf("Rename did not replace: m holds %q", got)
	}
	if got := must[Info](t)(OS.Stat(filepath.Join(dir, "m"))); got != (Info{Size: 1}) {
		t.Errorf("Stat of a file: %+v", got)
	}
	if got := must[Info](t)(OS.Stat(dir)); !got.Dir {
		t.Errorf("Stat of a directory: %+v", got)
	}
	check(t, OS.Remove(filepath.Join(dir, "a")))
	if err := OS.Remove(filepath.Join(dir, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second Remove returned %v, want fs.ErrNotExist", err)
	}
	check(t, OS.RemoveAll(filepath.Dir(dir)))
	check(t, OS.RemoveAll(filepath.Dir(dir)))
	if _, err := OS.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat after RemoveAll returned %v, want fs.ErrNotExist", err)
	}
	if err := OS.SyncDir(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir of a missing directory returned %v, want fs.ErrNotExist", err)
	}
}

func TestLockInOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock := must[io.Closer](t)(OS.Lock(path))
	if _, err := OS.Lock(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("second Lock returned %v, want ErrLocked", err)
	}
	// Reading the file must not free it, as it would with the locks of fcntl.
	must[[]byte](t)(os.ReadFile(path))
	if _, err := OS.Lock(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("Lock after reading the file returned %v, want ErrLocked", err)
	}
	check(t, lock.Close())
	check(t, must[io.Closer](t)(OS.Lock(path)).Close())
}

func TestLockAcrossProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), lockerEnv+"="+path)
	in := must[io.WriteCloser](t)(other.StdinPipe())
	out := must[io.ReadCloser](t)(other.StdoutPipe())
	check(t, other.Start())
	if line := must[string](t)(bufio.NewReader(out).ReadString('\n')); line != "locked: <nil>\n" {
		t.Fatalf("the other process said %q", line)
	}
	if _, err := OS.Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("Lock beside another process returned %v, want ErrLocked", err)
	}
	check(t, in.Close())
	check(t, other.Wait())
	check(t, must[io.Closer](t)(OS.Lock(path)).Close())
}
