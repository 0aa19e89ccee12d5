package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// binary is the daemon, built once.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	parallel := false
	flag.Visit(func(f *flag.Flag) { parallel = parallel || f.Name == "test.parallel" })
	if !parallel { // tests of processes wait most of the time
		if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "octopiid-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "octopiid")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build octopiid: %v\n%s", err, out)
		return 1
	}
	status := m.Run()
	if status == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return status
}

// startTimeout bounds how long a process may take to be ready, or to end.
const startTimeout = time.Minute

// process is one running octopiid.
type process struct {
	t    *testing.T
	args []string
	cmd  *exec.Cmd
	// ready gets the addresses of the line that says that it serves clients.
	ready chan readyLine
	// ended is closed when the process ended; status is its exit status then.
	ended  chan struct{}
	status int

	mu  sync.Mutex
	log bytes.Buffer
	// more is closed, and made anew, at each line.
	more chan struct{}
}

type readyLine struct {
	Message string `json:"msg"`
	Client  string `json:"client-addr"`
	Peer    string `json:"peer-addr"`
}

// spawn starts octopiid with an empty environment and env.
func spawn(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	return spawnAs(t, exec.Command(binary, args...), env, args...)
}

// spawnAs starts a command that becomes octopiid with args.
func spawnAs(t *testing.T, cmd *exec.Cmd, env []string, args ...string) *process {
	t.Helper()
	if raceEnabled && testing.Short() {
		t.Skip("the daemon is not built with the race detector, and runs without it elsewhere")
	}
	p := &process{t: t, args: args, cmd: cmd, ready: make(chan readyLine, 16), ended: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Env = append([]string{}, env...) // nil would be this process's own
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.line(lines.Bytes())
		}
		_ = p.cmd.Wait() // the status says it all
		p.status = p.cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("octopiid %s:\n%s", strings.Join(p.args, " "), p.text())
		}
	})
	return p
}

func (p *process) line(line []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log.Write(append(line, '\n'))
	close(p.more)
	p.more = make(chan struct{})
	if key := repeatedKey(line); key != "" {
		p.t.Errorf("a line of the log has the key %q twice: %s", key, line)
	}
	var r readyLine
	if json.Unmarshal(line, &r) == nil && r.Message == "ready to serve clients" {
		p.ready <- r
	}
}

// repeatedKey returns a key that a line has twice, as a JSON object; else "".
func repeatedKey(line []byte) string {
	d := json.NewDecoder(bytes.NewReader(line))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return ""
	}
	keys := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return ""
		}
		if keys[key] {
			return key
		}
		keys[key] = true
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return ""
		}
	}
	return ""
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// textAndMore returns what was said, and what is closed when there is more of it.
func (p *process) textAndMore() (string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String(), p.more
}

// waitReady waits until the process serves clients.
func (p *process) waitReady() readyLine {
	p.t.Helper()
	select {
	case r := <-p.ready:
		return r
	case <-p.ended:
		p.t.Fatalf("octopiid ended with status %d before it was ready", p.status)
	case <-time.After(startTimeout):
		p.t.Fatal("octopiid is not ready; see its log")
	}
	return readyLine{}
}

// waitEnd waits until the process ended, and returns its status.
func (p *process) waitEnd() int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.status
	case <-time.After(startTimeout):
		p.t.Fatal("octopiid does not end; see its log")
		return -1
	}
}

// stop sends SIGTERM and expects an orderly end.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if status := p.waitEnd(); status != 0 {
		p.t.Fatalf("after SIGTERM octopiid ended with status %d; want 0", status)
	}
}

// kill ends the process as a crash would.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	p.waitEnd()
}

// givenAddrs are those that freeAddr returned.
var givenAddrs sync.Map

// freeAddr returns an address that is free, of a port that the system gives to
// nobody by itself: a process can be restarted on it.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)))
		if err != nil {
			continue
		}
		defer l.Close()
		addr := l.Addr().String()
		if _, given := givenAddrs.LoadOrStore(addr, true); given {
			continue // to a process that is not started yet, or is started again
		}
		return addr
	}
	t.Fatal("found no free port between 10000 and 30000")
	return ""
}

func freePorts(t *testing.T) (client, peer int) {
	t.Helper()
	port := func() int {
		_, p, _ := net.SplitHostPort(freeAddr(t))
		return atoi(t, p)
	}
	return port(), port()
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
