package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport/tcp"
)

// Whoever founds listens for longer than any member waits between two attempts to reach it.
func TestFoundersListenForLongerThanMembersWait(t *testing.T) {
	listens, err := startCommand(nil).Flags().GetDuration("found-after")
	if err != nil || listens <= tcp.RedialMax {
		t.Errorf("a founder listens for %v (%v), and a member waits up to %v between two attempts", listens, err, tcp.RedialMax)
	}
}

// Each file of a client's certificates that changes alone is noticed.
func TestAnyChangedCertificateFileIsNoticed(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	cfg := config{ClientCertFile: file("cert"), ClientKeyFile: file("key"), ClientCAFile: file("ca")}
	at := time.Now()
	touch := func(path string) {
		t.Helper()
		at = at.Add(time.Second)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{cfg.ClientCertFile, cfg.ClientKeyFile, cfg.ClientCAFile} {
		touch(path)
	}
	for _, path := range []string{cfg.ClientCertFile, cfg.ClientKeyFile, cfg.ClientCAFile} {
		before := changed(cfg)
		touch(path)
		if changed(cfg) == before {
			t.Errorf("that %s changed is not noticed", path)
		}
	}
}

// Where the disk does not answer nothing more is closed: it would wait for the disk, and
// keep the process from its end.
func TestNothingIsClosedOnAStalledDisk(t *testing.T) {
	for _, failure := range []error{nil, errors.New("another error"), node.ErrDiskStalled} {
		var closed []string
		m := &member{}
		m.onClose(func() error { closed = append(closed, "lock"); return nil })
		m.onClose(func() error { closed = append(closed, "store"); return nil })
		m.onClose(func() error { closed = append(closed, "node"); return failure })
		if err := m.close(); !errors.Is(err, failure) {
			t.Errorf("close: %v; want %v", err, failure)
		}
		if want := map[bool]int{true: 1, false: 3}[errors.Is(failure, node.ErrDiskStalled)]; len(closed) != want {
			t.Errorf("after %v closed are %v; want %d of them", failure, closed, want)
		}
	}
}

// A signal at the moment at which this process stops to listen for it, or after that, does
// no harm.
func TestHangupWhileItStops(t *testing.T) {
	_, ignore := hangups()
	ignore() // before the first signal, which would end this process by default
	stop := make(chan struct{})
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for {
			select {
			case <-stop:
				return
			default:
				_ = syscall.Kill(os.Getpid(), syscall.SIGHUP)
			}
		}
	}()
	for range 3000 {
		_, stopSignals := hangups()
		stopSignals()
	}
	close(stop)
	<-sent
}

// A signal that comes until this process ignores it meets an open channel.
func TestSignalsStopBeforeTheirChannelIsClosed(t *testing.T) {
	signals := make(chan os.Signal, 1)
	endHangups(signals, func() {
		select {
		case _, open := <-signals:
			if !open {
				t.Error("the channel is closed while signals may come")
			}
		default:
		}
	})
	if _, open := <-signals; open {
		t.Error("the channel is not closed")
	}
}

// The database that a restored snapshot brought is watched like the one before it.
func TestRestoredDatabaseIsWatched(t *testing.T) {
	dir := t.TempDir()
	store, err := kv.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	command, err := store.RequestCommand(&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("k"), Value: []byte("value")}}, kv.ReadBytesMax)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Apply([]node.Entry{{Index: 1, Term: 1, Data: command}}); err != nil {
		t.Fatal(err)
	}
	m := &member{store: store, lg: zap.NewNop(), failed: make(chan error, failuresMax)}
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		m.watchDatabase(ctx)
	}()
	defer func() { cancel(); <-watched }()
	var image bytes.Buffer
	snapshot, err := store.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.WriteTo(&image); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(snapshot.Close(), store.Restore(5, &image)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "db")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at := bytes.Index(file, []byte("value")); at >= 0; at = bytes.Index(file, []byte("value")) {
		file[at] = 'V'
		if _, err := f.WriteAt([]byte("V"), int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := store.Scrub(t.Context(), 1<<30); !errors.Is(err, kv.ErrDamaged) {
		t.Fatalf("scrub: %v; want %v", err, kv.ErrDamaged)
	}
	select {
	case err := <-m.failed:
		if !errors.Is(err, kv.ErrDamaged) {
			t.Errorf("the member ends with %v; want %v", err, kv.ErrDamaged)
		}
	case <-time.After(20 * failurePoll):
		t.Error("the failure of the restored database is not noticed")
	}
}

// A member that joined is ready when it votes; and one that is cut off says that it is not
// ready, and does not make whoever asks wait.
func TestReadyMeansAVoteAndAQuorum(t *testing.T) {
	c := startCluster(t)
	list, err := client(t, nil, c.endpoints...).MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Members {
		if m.IsLearner {
			t.Errorf("%s says that it is ready, and has no vote", m.Name)
		}
	}
	notReady := func(when, metrics string) {
		until(t, func(ctx context.Context) error {
			code, _ := fetch(ctx, "http://"+metrics+"/livez")
			return expectCode(code, http.StatusOK)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*readyTimeout)
		defer cancel()
		if code, body := fetch(ctx, "http://"+metrics+"/readyz"); code != http.StatusServiceUnavailable {
			t.Errorf("/readyz of a member that is %s: %d %s; want %d", when, code, body, http.StatusServiceUnavailable)
		}
	}
	metrics := freeAddr(t)
	c.args[2] = append(c.args[2], "--metrics-addr", metrics)
	c.processes[2].stop()
	c.start(2)
	c.processes[2].waitReady()
	c.processes[0].stop()
	c.processes[1].stop()
	notReady("cut off", metrics)
	c.processes[2].stop()
	c.start(2)
	notReady("alone since it was started", metrics)
	c.processes[2].stop()
}

// A warning that is said without end does not fill the disk, and takes nothing else away.
func TestRepeatedWarningsAreSampled(t *testing.T) {
	var out bytes.Buffer
	lg := newLogger(&out, zap.NewAtomicLevelAt(zap.InfoLevel))
	for range 500 {
		lg.Warn("refused")
		lg.Error("stopped")
		lg.Info("membership changed")
		lg.Debug("detail")
	}
	text := out.String()
	for message, want := range map[string]int{"refused": warnFirst, "stopped": 500, "membership changed": 500, "detail": 0} {
		if got := strings.Count(text, message); got != want {
			t.Errorf("%d lines say %q; want %d", got, message, want)
		}
	}
}
