package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"

	"github.com/octopii/octopii/internal/vfs"
)

// kubernetes adds these for Services that are named octopii and octopii-client.
var kubernetes = []string{
	"OCTOPII_PORT=tcp://10.0.0.7:2379", "OCTOPII_SERVICE_HOST=10.0.0.7", "OCTOPII_SERVICE_PORT=2379", "OCTOPII_SERVICE_PORT_CLIENT=2379",
	"OCTOPII_PORT_2379_TCP=tcp://10.0.0.7:2379", "OCTOPII_PORT_2379_TCP_PROTO=tcp", "OCTOPII_PORT_2379_TCP_PORT=2379", "OCTOPII_PORT_2379_TCP_ADDR=10.0.0.7",
	"OCTOPII_CLIENT_PORT=tcp://10.0.0.8:2379", "OCTOPII_CLIENT_SERVICE_HOST=10.0.0.8", "OCTOPII_CLIENT_PORT_2379_TCP_ADDR=10.0.0.8",
}

func TestConfigIgnoresWhatIsNotOurs(t *testing.T) {
	got, err := load(t, []string{"--data-dir", "d"}, append(kubernetes, "OCTOPII_DATADIR=x", "OCTOPII_NAME=n"), "")
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "n" || got.DataDir != "d" || got.ClientAddr != "127.0.0.1:2379" {
		t.Errorf("got %+v", got)
	}
	for _, v := range append(kubernetes, "OCTOPII_DATADIR=x") {
		if name, _, _ := strings.Cut(v, "="); !slices.Contains(got.Unknown, name) {
			t.Errorf("nothing is said of %s: %v", name, got.Unknown)
		}
	}
}

// A flag of such a name would be set by Kubernetes.
func TestNoFlagIsNamedLikeAServicesVariable(t *testing.T) {
	flags := pflag.NewFlagSet("start", pflag.ContinueOnError)
	addFlags(flags)
	service := regexp.MustCompile(`(^|-)(port|service-host|service-port)(-|$)`)
	flags.VisitAll(func(f *pflag.Flag) {
		if service.MatchString(f.Name) {
			t.Errorf("--%s: Kubernetes sets OCTOPII_%s for some name of a Service; choose another name", f.Name, envName(f.Name))
		}
	})
}

// Where others are told to find a member, and it is not there, its own log says so.
func TestAdvertisedAddressIsChecked(t *testing.T) {
	t.Parallel()
	start := func(peers, advertised string) *process {
		return spawn(t, nil, "start", "--data-dir", t.TempDir(), "--client-addr", "127.0.0.1:0", "--peer-addr", peers,
			"--advertise-peer-addr", advertised, "--bootstrap", "--found-after", "0")
	}
	at := freeAddr(t)
	const said = "--advertise-peer-addr: this member does not reach itself there"
	right, nobody, another := start(at, at), start("127.0.0.1:0", freeAddr(t)), start("127.0.0.1:0", at)
	for p, why := range map[*process]string{nobody: "connection refused", another: "answers there, and this one is"} {
		until(t, func(context.Context) error {
			if text := p.text(); !strings.Contains(text, said) || !strings.Contains(text, why) {
				return fmt.Errorf("the log does not say %q", why)
			}
			return nil
		})
	}
	if strings.Contains(right.text(), said) {
		t.Error("the member that is there says that it is not")
	}
}

// supervisedBy starts a member that tells how it does at a socket, and returns what waits
// for the next thing that it tells.
func supervisedBy(t *testing.T, env []string, args ...string) (p *process, next func() string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "octopiid-notify-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address := &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"}
	socket, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	p = spawn(t, append(env, "NOTIFY_SOCKET="+address.Name), args...)
	return p, func() string {
		t.Helper()
		_ = socket.SetReadDeadline(time.Now().Add(startTimeout))
		buf := make([]byte, 256)
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatalf("the supervisor is told nothing: %v\n%s", err, p.text())
		}
		return string(buf[:n])
	}
}

// supervised returns what waits until the member tells want.
func supervised(t *testing.T, env []string, args ...string) (*process, func(want string)) {
	t.Helper()
	p, next := supervisedBy(t, env, args...)
	return p, func(want string) {
		t.Helper()
		for next() != want {
		}
	}
}

// A member tells systemd what it does, SIGHUP sets the log level anew and ends nothing,
// and what Kubernetes puts into its environment is no reason to end, either.
func TestSupervised(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "octopii.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log-level: info\n")
	args := []string{"start", "--data-dir", filepath.Join(dir, "data"), "--bootstrap", "--found-after", "0", "--client-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0", "--config", file}
	p, expect := supervised(t, append(kubernetes, "WATCHDOG_USEC=200000"), args...)
	expect("READY=1")
	expect("WATCHDOG=1")
	waitText(t, p, "OCTOPII_PORT_2379_TCP_ADDR")
	write("log-level: warn\nname: other\n")
	_ = p.cmd.Process.Signal(syscall.SIGHUP)
	expect("RELOADING=1")
	expect("READY=1")
	waitText(t, p, "takes a restart")
	write("log-level: loud\n")
	_ = p.cmd.Process.Signal(syscall.SIGHUP)
	expect("READY=1")
	waitText(t, p, "the old one stays")
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	expect("STOPPING=1")
	if status := p.waitEnd(); status != 0 {
		t.Errorf("status %d\n%s", status, p.text())
	}
	// The second start says what has no effect any more.
	p = spawn(t, nil, lone(filepath.Join(dir, "data"))...)
	p.waitReady()
	waitText(t, p, "no effect any more")
}

// A configuration whose file system hangs as it is read again keeps no member from its end.
func TestReloadThatHangs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "octopii.yaml")
	if err := os.WriteFile(file, []byte("log-level: info\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"start", "--data-dir", filepath.Join(dir, "data"), "--bootstrap", "--found-after", "0", "--client-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0", "--config", file}
	p, expect := supervised(t, nil, args...)
	expect("READY=1")
	if err := errors.Join(os.Remove(file), syscall.Mkfifo(file, 0o600)); err != nil { // nobody ever writes
		t.Fatal(err)
	}
	_ = p.cmd.Process.Signal(syscall.SIGHUP)
	expect("RELOADING=1")
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	expect("STOPPING=1")
	if status := p.waitEnd(); status != 0 {
		t.Errorf("status %d\n%s", status, p.text())
	}
}

// A second SIGTERM at once is taken for the same as the first. A later one ends a member
// that is still stopping, as its disk does not answer.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := spawn(t, nil, lone(dir)...)
	c := client(t, nil, p.waitReady().Client)
	release := hangDisk(t, p)
	// There must be something to write, as a member that has nothing to write stops all the same.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.Put(ctx, "k", "v"); err == nil {
		t.Fatal("a disk that hangs took a write")
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	waitText(t, p, `"stopping"`)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	waitText(t, p, "is taken for the same")
	pause(secondSignalAfter)
	select {
	case <-p.ended:
		t.Fatalf("two signals at once ended it, with a disk that hangs\n%s", p.text())
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	waitText(t, p, "a second signal")
	release() // what traces a process keeps it from ending
	if status := p.waitEnd(); status != exitFailure {
		t.Errorf("status %d, want %d\n%s", status, exitFailure, p.text())
	}
}

// When a signal counts as the second one.
func TestSecondSignal(t *testing.T) {
	for name, c := range map[string]struct {
		after []time.Duration // since the signal before
		ends  bool
	}{
		"one":                   {nil, false},
		"two at once":           {[]time.Duration{0}, false},
		"two within the second": {[]time.Duration{secondSignalAfter - time.Millisecond}, false},
		"two":                   {[]time.Duration{secondSignalAfter}, true},
		"a third that is late":  {[]time.Duration{0, secondSignalAfter}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				signals := make(chan os.Signal)
				stopped, ended := false, false
				go func() {
					awaitSecond(signals, func() { stopped = true }, io.Discard)
					ended = true
				}()
				signals <- syscall.SIGTERM
				for _, after := range c.after {
					time.Sleep(after) // in the bubble
					signals <- syscall.SIGTERM
				}
				synctest.Wait()
				if !stopped || ended != c.ends {
					t.Errorf("stopped %v, ended %v; want true, %v", stopped, ended, c.ends)
				}
				if !ended { // the bubble must have no goroutine left
					time.Sleep(secondSignalAfter)
					signals <- syscall.SIGTERM
				}
			})
		})
	}
}

// A member that waits for its lock is not ready, whatever SIGHUP does.
func TestHangupBeforeReady(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lock, err := vfs.OS.Lock(filepath.Join(dir, "LOCK"))
	if err != nil {
		t.Fatal(err)
	}
	p, next := supervisedBy(t, nil, lone(dir)...)
	waitText(t, p, "waiting for it")
	_ = p.cmd.Process.Signal(syscall.SIGHUP)
	waitText(t, p, "the configuration was read again")
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	p.waitReady()
	if got := next(); got != "READY=1" {
		t.Errorf("the supervisor is told %q first; want READY=1", got)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if got := next(); got != "STOPPING=1" {
		t.Errorf("after READY=1 the supervisor is told %q; want STOPPING=1", got)
	}
	p.waitEnd()
}

// One that never became ready says that it stops, too.
func TestStoppingBeforeReady(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lock, err := vfs.OS.Lock(filepath.Join(dir, "LOCK"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	p, next := supervisedBy(t, nil, lone(dir)...)
	waitText(t, p, "waiting for it")
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if got := next(); got != "STOPPING=1" {
		t.Errorf("the supervisor is told %q; want STOPPING=1", got)
	}
	if status := p.waitEnd(); status != 0 {
		t.Errorf("status %d\n%s", status, p.text())
	}
}

// A lock that a backup holds, on any of the files, is waited for; the log names it.
func TestLocksAreWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := spawn(t, nil, lone(dir)...)
	p.waitReady()
	p.stop()
	logs, err := filepath.Glob(filepath.Join(dir, "node/wal/*/LOCK"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("no lock of the log: %v, %v", logs, err)
	}
	for _, file := range append(logs, filepath.Join(dir, "LOCK"), filepath.Join(dir, "node/LOCK"), filepath.Join(dir, "kv/db")) {
		lock, err := vfs.OS.Lock(file)
		if err != nil {
			t.Fatal(err)
		}
		p := spawn(t, nil, lone(dir)...)
		waitText(t, p, "waiting for it")
		if !strings.Contains(p.text(), file) {
			t.Errorf("the log does not name %s:\n%s", file, p.text())
		}
		if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
		p.waitReady()
		p.stop()
	}
	// One that waits ends by a signal, in good order.
	lock, err := vfs.OS.Lock(filepath.Join(dir, "LOCK"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	p = spawn(t, nil, lone(dir)...)
	waitText(t, p, "waiting for it")
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if status := p.waitEnd(); status != 0 {
		t.Errorf("status %d\n%s", status, p.text())
	}
	// And gives up after the limit, so that a supervisor sees it.
	expectEnd(t, spawn(t, nil, append(lone(dir), "--lock-timeout", "50ms", "--log-level", "error")...), exitFailure, "is in use")
}

// The locks of etcd's log are those of fcntl, on each of its files.
func TestLocksOfEtcdsLogAreWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := append(lone(dir), "--wal", "etcd")
	p := spawn(t, nil, args...)
	p.waitReady()
	p.stop()
	files, err := filepath.Glob(filepath.Join(dir, "node/wal/*/*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of the log: %v, %v", files, err)
	}
	lock, err := fileutil.TryLockFile(files[0], os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p = spawn(t, nil, args...)
	waitText(t, p, "waiting for it")
	if !strings.Contains(p.text(), files[0]) {
		t.Errorf("the log does not name %s:\n%s", files[0], p.text())
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	p.waitReady()
}

// waitText waits until the process has said want.
func waitText(t *testing.T, p *process, want string) {
	t.Helper()
	timeout := time.After(startTimeout)
	for {
		text, more := p.textAndMore()
		if strings.Contains(text, want) {
			return
		}
		select {
		case <-more:
		case <-p.ended:
			if text := p.text(); !strings.Contains(text, want) {
				t.Fatalf("it ended and did not say %q:\n%s", want, text)
			}
			return
		case <-timeout:
			t.Fatalf("it does not say %q:\n%s", want, text)
		}
	}
}

// All members move while they are down; one address of --join that is right brings them
// together.
func TestAllMembersMove(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	cl.put(c, "before")
	for i := range cl.processes {
		cl.processes[i].stop()
	}
	moved := make([]string, len(cl.processes))
	for i := range moved {
		moved[i] = freeAddr(t)
	}
	for i, args := range cl.args {
		args[slices.Index(args, "--peer-addr")+1] = moved[i]
		args = slices.DeleteFunc(args, func(a string) bool { return a == "--bootstrap" })
		if at := slices.Index(args, "--join"); at >= 0 {
			args[at+1] = "127.0.0.1:1," + moved[0]
		}
		cl.args[i] = args
	}
	for i := range cl.processes {
		cl.start(i)
	}
	cl.put(c, "after")
	for i := range cl.processes {
		cl.processes[i].waitReady()
		if v := get(t, client(t, nil, cl.endpoints[i]), "k"); v != "after" {
			t.Errorf("%s reads %q; want after", memberName(i), v)
		}
	}
}
