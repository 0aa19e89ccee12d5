package main

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

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

// supervised starts a member that tells how it does at a socket.
func supervised(t *testing.T, env []string, args ...string) (*process, func(want string)) {
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
	p := spawn(t, append(env, "NOTIFY_SOCKET="+address.Name), args...)
	return p, func(want string) {
		t.Helper()
		_ = socket.SetReadDeadline(time.Now().Add(startTimeout))
		buf := make([]byte, 256)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				t.Fatalf("no %s: %v\n%s", want, err, p.text())
			}
			if string(buf[:n]) == want {
				return
			}
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
	args := []string{"start", "--data-dir", filepath.Join(dir, "data"), "--bootstrap", "--client-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0", "--config", file}
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

// The second SIGTERM ends a member that is still stopping, as its disk does not
// answer.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := spawn(t, nil, lone(dir)...)
	p.waitReady()
	release := hangDisk(t, p)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		t.Fatalf("it ended by the first signal, with a disk that hangs\n%s", p.text())
	case <-time.After(200 * time.Millisecond): // nothing to wait for: it must go on
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	waitText(t, p, "a second signal")
	release() // what traces a process keeps it from ending
	if status := p.waitEnd(); status != exitFailure {
		t.Errorf("status %d, want %d\n%s", status, exitFailure, p.text())
	}
}

// A lock that a backup holds, on any of the files, is waited for; the log names it.
func TestLocksAreWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := spawn(t, nil, lone(dir)...)
	p.waitReady()
	p.stop()
	for _, file := range []string{"LOCK", "node/LOCK", "kv/db"} {
		lock, err := vfs.OS.Lock(filepath.Join(dir, file))
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

func waitText(t *testing.T, p *process, want string) {
	t.Helper()
	for end := time.Now().Add(startTimeout); !strings.Contains(p.text(), want); time.Sleep(10 * time.Millisecond) {
		select {
		case <-p.ended:
			t.Fatalf("it ended before it said %q:\n%s", want, p.text())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("it does not say %q:\n%s", want, p.text())
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
