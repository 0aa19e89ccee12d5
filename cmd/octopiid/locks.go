package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
)

// lockPoll is how often a lock that somebody else holds is tried.
const lockPoll = 100 * time.Millisecond

// waitForLocks waits until nobody else uses the files of cfg: a backup tool that will
// be done soon, or another octopiid. It says at once whom it waits for, and gives up
// after cfg.LockTimeout, so that a supervisor sees it.
func waitForLocks(ctx context.Context, cfg config, lg *zap.Logger) error {
	told := ""
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	limit := time.After(cfg.LockTimeout)
	for {
		held, err := heldLock(cfg)
		if held == "" || err != nil {
			return err
		}
		if cfg.LockTimeout > 0 && held != told {
			lg.Warn("another process holds a lock; waiting for it. Is it another octopiid with this --data-dir, or a backup?",
				zap.String("file", held), zap.Duration("lock-timeout", cfg.LockTimeout))
			told = held
		}
		select {
		case <-ticker.C:
		case <-limit:
			return fmt.Errorf("--data-dir %s is in use by another process, which holds the lock of %s; stop that one, or name another directory", cfg.DataDir, held)
		case <-ctx.Done():
			return nil
		}
	}
}

// heldLock returns a file that somebody else has locked; empty: there is none. Locks
// are those of flock, as octopiid and its database take them.
func heldLock(cfg config) (string, error) {
	for _, path := range []string{cfg.lockFile(), filepath.Join(cfg.nodeDir(), "LOCK"), filepath.Join(cfg.storeDir(), "db")} {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		lock, err := vfs.OS.Lock(path)
		if errors.Is(err, vfs.ErrLocked) {
			return path, nil
		}
		if err != nil {
			return "", fmt.Errorf("--data-dir: %w", err)
		}
		_ = lock.Close() // nothing was written
	}
	return "", nil
}
