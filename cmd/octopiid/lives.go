package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/node/comeback"
	"github.com/octopii/octopii/transport/tcp"
)

// serve runs a member until ctx ends, which is no error, or it stops by itself and
// cannot come back. It has the data directory's lock all the while: nobody else starts on
// files that are about to be put aside.
func serve(ctx context.Context, cfg config, lg *zap.Logger, sv *supervisor) (err error) {
	lock, err := lockWhenFree(ctx, cfg, lg)
	if lock == nil {
		return err
	}
	defer func() {
		if !errors.Is(err, node.ErrDiskStalled) { // else the process ends, and waits for nothing
			err = errors.Join(err, lock.Close())
		}
	}()
	back := comeback.New(comebackConfig(cfg, lg))
	return advise(cfg, back, back.Run(ctx, func(ctx context.Context, from comeback.Origin) error {
		return runMember(ctx, cfg, lg, sv, back, from)
	}))
}

func comebackConfig(cfg config, lg *zap.Logger) comeback.Config {
	return comeback.Config{
		Dir: cfg.DataDir, Node: nodeDirName, Files: []string{storeDirName},
		Bootstrap: cfg.Bootstrap, Expect: cfg.Expect, Join: cfg.Join,
		Caller: func() (comeback.Caller, error) {
			caller, err := tcp.NewCaller(peerConfig(cfg, lg))
			if err != nil {
				return nil, peerError(cfg, err)
			}
			return caller, nil
		},
		IsOwn:    func(address string) bool { return sameAddr(address, cfg.ownPeerAddr()) },
		IsDamage: func(err error) bool { return errors.Is(err, kv.ErrDamaged) },
		Logger:   lg,
	}
}

// advise adds what an operator can do about a removed member. The command that founded the
// cluster, with an empty directory, would found a second one.
func advise(cfg config, back *comeback.Member, cause error) error {
	if !errors.Is(cause, node.ErrRemoved) {
		return cause
	}
	cause = fmt.Errorf("%w; that of the member that was removed is %s", cause, cfg.DataDir)
	if !cfg.Bootstrap {
		return cause
	}
	return fmt.Errorf("%w; start it with --join %s in the place of --bootstrap then, which would found a second cluster",
		cause, strings.Join(back.Peers(), ","))
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
