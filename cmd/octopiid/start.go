package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/node/comeback"
)

func startCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Run one member of a cluster",
		Long: `Run one member of a cluster.

The same command works for every start: --bootstrap and --wait are ignored once the
data directory is initialized, and --join then only says where to look for the others
as well: if all of them moved, one address that is right is enough. SIGTERM stops a
member in good order, and another one, a second later or more, at once; SIGHUP reads
the log level again. A flag --some-flag can also be given as OCTOPII_SOME_FLAG in the
environment or as some-flag in the file that --config names; flags come before the
environment, and the environment before the file.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			signals, stop := hangups() // from the beginning: the default ends the process
			cfg, err := loadConfig(cmd.Flags(), environ)
			if err != nil {
				return err
			}
			if err := cfg.checkFounding(); err != nil {
				return advised(err)
			}
			level, _ := zap.ParseAtomicLevel(cfg.LogLevel) // it was checked
			lg := newLogger(cmd.ErrOrStderr(), level)
			sayIgnored(cfg, lg)
			sv := &supervisor{lg: lg}
			r := reloader{cmd.Flags(), environ, level, lg, sv}
			running, cancel := context.WithCancel(cmd.Context())
			var wg sync.WaitGroup
			go r.run(signals, cfg) // not waited for: its file may be on a file system that hangs
			wg.Go(func() { sv.run(running) })
			defer wg.Wait()
			defer cancel()
			defer stop()
			if err := serve(cmd.Context(), cfg, lg, sv); err != nil {
				return failure{advised(err)}
			}
			return nil
		},
	}
	addFlags(cmd.Flags())
	return cmd
}

// advised adds to an error that may pass what the operator can change.
func advised(err error) error {
	advice := vfs.Advice(err)
	if advice == "" {
		return err
	}
	return fmt.Errorf("%w; %s, and start again: no file was moved or given up", err, advice)
}

// sayIgnored says once what has no effect, or none any more.
func sayIgnored(cfg config, lg *zap.Logger) {
	if len(cfg.Unknown) > 0 {
		lg.Warn("environment variables that begin with "+envPrefix+" and are no flags are ignored; see octopiid start --help",
			zap.Strings("variables", cfg.Unknown))
	}
	fresh, err := isFresh(cfg.nodeDir())
	if err != nil {
		return
	}
	if fresh {
		sayNotAmong(cfg, lg)
		if cfg.Wait {
			lg.Info("waiting to be added to a cluster: octopiictl member add "+cfg.ownPeerAddr()+" --name "+cfg.Name, zap.String("dir", cfg.DataDir))
		}
		return
	}
	var flags []string
	for _, f := range []struct {
		name string
		set  bool
	}{{"bootstrap", cfg.Bootstrap}, {"wait", cfg.Wait}, {"failover-by-timeout", cfg.FailoverByTimeout}} {
		if f.set {
			flags = append(flags, "--"+f.name)
		}
	}
	if len(flags) > 0 {
		lg.Info("the data directory is initialized: flags of the first start have no effect any more", zap.Strings("flags", flags))
	}
}

// sayNotAmong warns of an address of its own that is probably missing from --join, or
// spelled in another way there.
func sayNotAmong(cfg config, lg *zap.Logger) {
	if cfg.Expect > 0 && len(cfg.Join) >= cfg.Expect && !cfg.joinNamesSelf() {
		lg.Warn("this member's own address is not in --join, which names as many members as --expect; if none of them is this member, correct --join or --advertise-peer-addr",
			zap.String("address", cfg.ownPeerAddr()), zap.Strings("join", cfg.Join), zap.Int("expect", cfg.Expect))
	}
}

// A warning that says the same again and again, such as that of a peer that is refused at
// each attempt, must not fill the disk: in each warnTick the first warnFirst are written, and
// then one of warnEach.
const (
	warnTick  = 10 * time.Second
	warnFirst = 20
	warnEach  = 1000
)

// newLogger writes one JSON object a line.
func newLogger(w io.Writer, level zap.AtomicLevel) *zap.Logger {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	out := zapcore.Lock(zapcore.AddSync(w))
	core := func(warnings bool) zapcore.Core {
		return zapcore.NewCore(zapcore.NewJSONEncoder(enc), out, zap.LevelEnablerFunc(func(l zapcore.Level) bool {
			return level.Enabled(l) && (l == zapcore.WarnLevel) == warnings
		}))
	}
	return zap.New(zapcore.NewTee(core(false), zapcore.NewSamplerWithOptions(core(true), warnTick, warnFirst, warnEach)))
}

// runMember runs a member until ctx ends, which is no error, or it stops by itself.
func runMember(ctx context.Context, cfg config, lg *zap.Logger, sv *supervisor, back *comeback.Member, from comeback.Origin) error {
	m, err := startWhenUnlocked(ctx, cfg, lg, back, from)
	if m == nil {
		return err
	}
	ready := m.ready
	for {
		select {
		case <-ready:
			sv.tellReady()
			ready = nil // it is closed: once is enough
		case <-ctx.Done():
			lg.Info("stopping")
			return m.close()
		case err := <-m.failed:
			return errors.Join(err, m.close())
		case <-m.node.Done():
			if errors.Is(m.node.Err(), node.ErrDiskStalled) {
				_ = m.close() // the same once more
				return whyDone(m.node.Err())
			}
			return errors.Join(whyDone(m.node.Err()), m.close())
		}
	}
}

// whyDone says why a node stopped by itself.
func whyDone(err error) error {
	if errors.Is(err, node.ErrRemoved) {
		return err
	}
	return fmt.Errorf("the node stopped: %w", err)
}
