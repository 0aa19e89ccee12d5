package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hangDisk lets every write and sync of a file by a process hang, as in a disk that
// does not answer: strace stops the threads that make them. It skips the test where
// that cannot be done. What it returns lets go of the process.
func hangDisk(t *testing.T, p *process) (release func()) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed, and so no disk can be made to hang")
	}
	const calls = "fdatasync,fsync,pwrite64,pwritev"
	cmd := exec.Command(strace, "-f", "-p", strconv.Itoa(p.cmd.Process.Pid), "-e", "trace="+calls, "-e", "inject="+calls+":delay_enter=3600s")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("strace does not start: %v", err)
	}
	attached := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		said := ""
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if said = lines.Text(); strings.Contains(said, "attached") {
				select {
				case attached <- nil:
				default:
				}
			}
		}
		select {
		case attached <- fmt.Errorf("strace cannot attach: %s", said):
		default:
		}
		_ = cmd.Wait() // it may be killed
	}()
	release = func() {
		cmd.Process.Kill()
		<-ended
	}
	t.Cleanup(release)
	if err := <-attached; err != nil {
		t.Skip(err)
	}
	return release
}

// The disk of the leader's process hangs: another member leads soon and writes go on,
// and the process ends when the limit is over, with one line that says why.
func TestDiskThatHangs(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, "--disk-stall-limit", "8s")
	first := cl.processes[0]
	c := client(t, nil, cl.endpoints[0])
	if _, err := c.Put(t.Context(), "before", "1"); err != nil {
		t.Fatal(err)
	}
	st, err := c.Status(t.Context(), cl.endpoints[0])
	if err != nil {
		t.Fatal(err)
	}
	if st.Leader != st.Header.MemberId {
		t.Fatalf("member %x leads, and %x founded the cluster", st.Leader, st.Header.MemberId)
	}
	release := hangDisk(t, first)
	began := time.Now()
	others := client(t, nil, cl.endpoints[1:]...)
	until(t, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := others.Put(ctx, "while it hangs", "2")
		return err
	})
	until(t, func(ctx context.Context) error {
		now, err := others.Status(ctx, cl.endpoints[1])
		if err == nil && now.Leader == st.Leader {
			err = fmt.Errorf("member %x leads still", now.Leader)
		}
		return err
	})
	t.Logf("another one leads after %v", time.Since(began))
	// The writes hang still; a process that is traced stays as a zombie until then, or,
	// where its first thread is the one that writes, stopped on its way out.
	until(t, func(context.Context) error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", first.cmd.Process.Pid))
		if err == nil && !strings.Contains(string(stat), ") Z ") && !strings.Contains(first.text(), "octopiid: the node stopped: ") {
			return fmt.Errorf("it runs: %s", stat)
		}
		return nil
	})
	t.Logf("it ended after %v", time.Since(began))
	release()
	if status := first.waitEnd(); status != exitFailure {
		t.Errorf("it ended with status %d, want %d", status, exitFailure)
	}
	lines := strings.Split(strings.TrimSpace(first.text()), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "octopiid: the node stopped: node: the disk stalled: ") || !strings.Contains(last, cl.dir) {
		t.Errorf("its last words are %q", last)
	}
	if _, err := others.Put(t.Context(), "without it", "3"); err != nil {
		t.Errorf("a write without it: %v", err)
	}
	cl.start(0)
	cl.processes[0].waitReady()
	if got := get(t, client(t, nil, cl.endpoints[0]), "while it hangs"); got != "2" {
		t.Errorf("it comes back with %q, want 2", got)
	}
}
