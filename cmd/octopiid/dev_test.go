package main

import (
	"context"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
)

// startDev runs a cluster on free ports until the returned function is called.
func startDev(t *testing.T, d dev) (greeting string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	d.out, d.lg = w, zap.NewNop()
	ended := make(chan error, 1)
	go func() {
		ended <- d.run(ctx)
		w.Close()
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("dev ended with %v; want no error", err)
			}
		case <-time.After(startTimeout):
			t.Error("dev does not end")
		}
	})
	var text strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(text.String(), "Ctrl-C") {
		n, err := r.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			t.Fatalf("dev ended before it was ready: %v\n%s", <-ended, text.String())
		}
	}
	return text.String(), stop
}

// anyPorts gives each of some members free ports.
func anyPorts(t *testing.T, members int) func(i int) (client, peer int) {
	t.Helper()
	ports := make([][2]int, members)
	for i := range ports {
		ports[i][0], ports[i][1] = freePorts(t)
	}
	return func(i int) (client, peer int) { return ports[i][0], ports[i][1] }
}

func TestDev(t *testing.T) {
	greeting, stop := startDev(t, dev{nodes: 3, ports: anyPorts(t, 3)})
	defer stop()
	endpoints := regexp.MustCompile(`--endpoints=(\S+) put hello world`).FindStringSubmatch(greeting)
	if endpoints == nil || strings.Count(greeting, "  leader\n") != 1 || strings.Count(greeting, "  follower\n") != 2 {
		t.Fatalf("the greeting names no command to try, or not one leader of three:\n%s", greeting)
	}
	c := client(t, nil, strings.Split(endpoints[1], ",")...)
	if _, err := c.Put(t.Context(), "hello", "world"); err != nil {
		t.Fatal(err)
	}
	if v := get(t, c, "hello"); v != "world" {
		t.Errorf("hello is %q; want world", v)
	}
	dir := regexp.MustCompile(`data is in (\S+)\.`).FindStringSubmatch(greeting)
	stop()
	if _, err := os.Stat(dir[1]); !os.IsNotExist(err) {
		t.Errorf("the temporary directory is still there: %v", err)
	}
}

func TestDevKeepsData(t *testing.T) {
	// A kept cluster comes back on the same ports.
	d := dev{nodes: 1, dir: t.TempDir(), ports: anyPorts(t, 1)}
	for _, want := range []string{"", "kept"} {
		greeting, stop := startDev(t, d)
		endpoint := regexp.MustCompile(`--endpoints=(\S+)`).FindStringSubmatch(greeting)[1]
		c := client(t, nil, endpoint)
		if v := get(t, c, "a"); v != want {
			t.Errorf("a is %q; want %q", v, want)
		}
		if _, err := c.Put(t.Context(), "a", "kept"); err != nil {
			t.Error(err)
		}
		stop()
	}
	if err := os.Mkdir(d.memberDir(2), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.checkKept(); err == nil || !strings.Contains(err.Error(), "--nodes 3") {
		t.Errorf("one of three kept members: %v; want an error that says --nodes 3", err)
	}
}

func TestDevAddressInUse(t *testing.T) {
	greeting, stop := startDev(t, dev{nodes: 1, ports: anyPorts(t, 1)})
	defer stop()
	free := anyPorts(t, 2)
	taken := regexp.MustCompile(`clients 127\.0\.0\.1:(\d+)`).FindStringSubmatch(greeting)[1]
	d := dev{nodes: 2, out: io.Discard, lg: zap.NewNop(), ports: func(i int) (int, int) {
		client, peer := free(i)
		if i == 1 {
			client = atoi(t, taken)
		}
		return client, peer
	}}
	err := d.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "member n2: 127.0.0.1:"+taken+": the address is in use") {
		t.Errorf("dev on a taken address: %v; want an error that names it", err)
	}
	if _, err := os.Stat(d.dir); !os.IsNotExist(err) {
		t.Errorf("the temporary directory is still there: %v", err)
	}
}

func TestDevPorts(t *testing.T) {
	for i, want := range [][2]int{{2379, 2380}, {22379, 22380}, {32379, 32380}, {42379, 42380}, {52379, 52380}, {62379, 62380}} {
		if c, p := devPorts(i); c != want[0] || p != want[1] {
			t.Errorf("member %d listens on %d and %d; want %v", i, c, p, want)
		}
	}
}
