package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
)

// supervisor is who started this process and wants to know how it does: systemd, or
// whoever listens at NOTIFY_SOCKET. Without that it does nothing. It is told what is true
// only: READY=1 when a member serves clients, no RELOADING=1 before that, and nothing after
// STOPPING=1. Its methods may be called from any goroutine.
type supervisor struct {
	lg *zap.Logger

	mu              sync.Mutex
	ready, stopping bool
}

// tellReady says that a member serves clients.
func (s *supervisor) tellReady() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.ready = true
		s.tell(daemon.SdNotifyReady)
	}
}

// tellStopping says that this process ends.
func (s *supervisor) tellStopping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	s.tell(daemon.SdNotifyStopping)
}

// whileReloading calls f, and says before and after it that the configuration is read. A
// process that is not ready yet does not say so: systemd takes the READY=1 at the end of a
// reload for that of the start.
// f may hang as its file system does, and keeps nobody from telling that this process stops.
func (s *supervisor) whileReloading(f func()) {
	reloading := s.tellWhileReady(daemon.SdNotifyReloading)
	f()
	if reloading {
		s.tellWhileReady(daemon.SdNotifyReady)
	}
}

// tellWhileReady sends a state, if this process is ready and does not stop. It says whether it did.
func (s *supervisor) tellWhileReady(state string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready || s.stopping {
		return false
	}
	s.tell(state)
	return true
}

// tell sends one of systemd's states.
func (s *supervisor) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.lg.Warn("cannot tell the supervisor at NOTIFY_SOCKET", zap.String("state", state), zap.Error(err))
	}
}

// run says that this process lives, twice as often as WATCHDOG_USEC asks for, until
// ctx ends, and then that it stops.
func (s *supervisor) run(ctx context.Context) {
	defer s.tellStopping()
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		<-ctx.Done()
		return
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.tell(daemon.SdNotifyWatchdog)
		case <-ctx.Done():
			return
		}
	}
}

// reloader does on SIGHUP what needs no restart: it sets the log level anew. Changed
// certificates are read again by themselves.
type reloader struct {
	flags   *pflag.FlagSet
	environ []string
	level   zap.AtomicLevel
	lg      *zap.Logger
	sv      *supervisor
}

// hangups catches SIGHUP from now on. After stop the process ignores SIGHUP: its default
// action would end a process that is about to end in good order, and a signal that was
// sent before stop may be delivered after it.
func hangups() (signals chan os.Signal, stop func()) {
	signals = make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals, func() { endHangups(signals, func() { signal.Ignore(syscall.SIGHUP) }) }
}

// endHangups closes the channel when no more signals are sent to it, which is so once ignore
// has returned.
func endHangups(signals chan os.Signal, ignore func()) {
	ignore()
	close(signals)
}

// run reloads at each signal. running is the configuration that this process has.
func (r reloader) run(signals <-chan os.Signal, running config) {
	for range signals {
		r.sv.whileReloading(func() { r.reload(running) })
	}
}

func (r reloader) reload(running config) {
	next, err := loadConfig(r.flags, r.environ)
	if err != nil {
		r.lg.Error("SIGHUP: the configuration cannot be used; the old one stays", zap.Error(err))
		return
	}
	level, _ := zap.ParseAtomicLevel(next.LogLevel) // it was checked
	r.level.SetLevel(level.Level())
	if changed := changedKeys(running, next); len(changed) > 0 {
		r.lg.Warn("SIGHUP: some of what changed takes a restart", zap.Strings("keys", changed))
	}
	r.lg.Info("SIGHUP: the configuration was read again", zap.String("log-level", next.LogLevel))
}
