package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/node/comeback"
)

// devNodesMax is how many members find a port below 65536.
const devNodesMax = 6

// dev is a local cluster in one process.
type dev struct {
	nodes int
	// dir holds a directory for each member. Empty: a temporary one.
	dir string
	// wal is the format of every member's log.
	wal string
	// ports returns where member i listens, counted from 0.
	ports func(i int) (client, peer int)
	out   io.Writer
	lg    *zap.Logger
}

// devPorts are 2379 and 2380, 22379 and 22380, 32379 and 32380, and so on.
func devPorts(i int) (client, peer int) {
	if i == 0 {
		return 2379, 2380
	}
	return 12379 + 10000*i, 12380 + 10000*i
}

func devCommand(environ []string) *cobra.Command {
	d := dev{ports: devPorts}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a local cluster in one process, to try things out",
		Long: `Run a local cluster in one process, to try things out.

Members listen on 127.0.0.1: for clients on 2379, 22379, 32379 and so on, for
each other one port higher. Ctrl-C stops the cluster and removes its data, unless
--data-dir says where to keep it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.nodes < 1 || d.nodes > devNodesMax {
				return fmt.Errorf("--nodes %d: use 1 to %d", d.nodes, devNodesMax)
			}
			if err := d.loadWAL(cmd.Flags(), environ); err != nil {
				return err
			}
			if err := d.checkKept(); err != nil {
				return err
			}
			d.out = cmd.OutOrStdout()
			d.lg = newLogger(cmd.ErrOrStderr(), zap.NewAtomicLevelAt(zap.ErrorLevel))
			if err := d.run(cmd.Context()); err != nil {
				return failure{err}
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&d.nodes, "nodes", 3, "how many members")
	cmd.Flags().StringVar(&d.dir, "data-dir", "", "`directory` to keep the data in (default: a temporary one)")
	addWALFlag(cmd.Flags())
	return cmd
}

// loadWAL takes the format of the logs from the flag, or else the environment:
// the one setting that dev shares with start.
func (d *dev) loadWAL(flags *pflag.FlagSet, environ []string) error {
	k := koanf.New(".")
	if err := k.Load(envProvider(environ), nil); err != nil {
		return fmt.Errorf("read the environment: %w", err)
	}
	if err := k.Load(posflag.Provider(flags, ".", k), nil); err != nil {
		return fmt.Errorf("read flags: %w", err)
	}
	d.wal = k.String("wal")
	return checkWAL(d.wal)
}

// checkKept refuses to start fewer members than the kept data has: those left
// might be no majority.
func (d *dev) checkKept() error {
	if d.dir == "" {
		return nil
	}
	kept := 0
	for i := range devNodesMax {
		if _, err := os.Stat(d.memberDir(i)); err == nil {
			kept = i + 1
		}
	}
	if kept > d.nodes {
		return fmt.Errorf("--data-dir %s holds %d members; use --nodes %d", d.dir, kept, kept)
	}
	return nil
}

func (d *dev) memberDir(i int) string { return filepath.Join(d.dir, memberName(i)) }

func memberName(i int) string { return fmt.Sprintf("n%d", i+1) }

// run runs the cluster until ctx ends or a member stops by itself.
func (d *dev) run(ctx context.Context) (err error) {
	kept := d.dir != ""
	if !kept {
		if d.dir, err = os.MkdirTemp("", "octopii-dev-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	members, err := d.start(cancel)
	defer func() {
		for _, m := range slices.Backward(members) {
			err = errors.Join(err, m.close())
		}
	}()
	if err != nil {
		return err
	}
	if d.ready(ctx, members) {
		d.greet(members, kept)
		<-ctx.Done()
	}
	var stopped failure
	if errors.As(context.Cause(ctx), &stopped) {
		return stopped.error
	}
	return nil
}

// start starts all members; stop is called with the reason when one stops by
// itself. What it started is returned with an error, too.
func (d *dev) start(stop context.CancelCauseFunc) ([]*member, error) {
	var members []*member
	for i := range d.nodes {
		cfg := d.config(i)
		m, err := d.startLocked(cfg)
		if err != nil {
			return members, devError(cfg.Name, err)
		}
		members = append(members, m)
		m.wg.Go(func() {
			<-m.node.Done()
			if err := m.node.Err(); !errors.Is(err, node.ErrClosed) {
				stop(failure{fmt.Errorf("member %s: %w", cfg.Name, whyDone(err))})
			}
		})
	}
	return members, nil
}

// startLocked starts a member that gives its directory's lock back in the end.
func (d *dev) startLocked(cfg config) (*member, error) {
	lock, err := lockDir(cfg)
	if lockedError(err) {
		return nil, inUse(cfg, cfg.lockFile())
	}
	if err != nil {
		return nil, err
	}
	lg := d.lg.With(zap.String("name", cfg.Name))
	back := comeback.New(comebackConfig(cfg, lg))
	m, err := startMember(cfg, lg, back, back.Origin())
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	m.closers = slices.Insert(m.closers, 0, lock.Close)
	return m, nil
}

// devError leaves out the flags of start, which dev does not have.
func devError(name string, err error) error {
	text := err.Error()
	for _, flag := range []string{"--client-addr ", "--peer-addr "} {
		text = strings.ReplaceAll(text, flag, "")
	}
	return fmt.Errorf("member %s: %s", name, text)
}

// config is the same for all members, but for where they are.
func (d *dev) config(i int) config {
	var client int
	var peers []string
	for j := range d.nodes {
		c, p := d.ports(j)
		if j == i {
			client = c
		}
		peers = append(peers, fmt.Sprintf("127.0.0.1:%d", p))
	}
	return config{
		Name:       memberName(i),
		DataDir:    d.memberDir(i),
		ClientAddr: fmt.Sprintf("127.0.0.1:%d", client),
		PeerAddr:   peers[i],
		Join:       peers,
		Expect:     d.nodes,
		WAL:        d.wal,

		DiskStallLimit: time.Minute,
	}
}

// ready waits until all members are; it returns false when ctx ended first.
func (d *dev) ready(ctx context.Context, members []*member) bool {
	for _, m := range members {
		select {
		case <-m.ready:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// greet says where the cluster is and what to try.
func (d *dev) greet(members []*member, kept bool) {
	fmt.Fprintf(d.out, "A cluster of %d is ready; its data is in %s.\n\n", len(members), d.dir)
	leader := members[0].node.Status().Leader
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, m.clientAddr)
		st, role := m.node.Status(), "follower"
		if st.ID == leader {
			role = "leader"
		}
		fmt.Fprintf(d.out, "  %s  clients %s  peers %s  %s\n", st.Name, m.clientAddr, m.peerAddr, role)
	}
	end := "removes the data"
	if kept {
		end = "keeps the data"
	}
	fmt.Fprintf(d.out, "\nTry:\n  etcdctl --endpoints=%s put hello world\n\nCtrl-C stops the cluster and %s.\n",
		strings.Join(endpoints, ","), end)
}
