package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
)

// lockPoll is how often a lock that another process holds is tried.
const lockPoll = 100 * time.Millisecond

// startWhenUnlocked starts a member as soon as no other process, such as a backup, holds a
// lock of its files. It logs which file it waits for, and gives up after cfg.LockTimeout, so
// that a supervisor sees it. It returns nil and no error if ctx ended first.
func startWhenUnlocked(ctx context.Context, cfg config, lg *zap.Logger) (*member, error) {
	deadline, told := time.Now().Add(cfg.LockTimeout), ""
	for {
		held, err := heldLock(cfg)
		if err != nil {
			return nil, err
		}
		if held == "" {
			m, err := startMember(cfg, lg)
			if !lockedError(err) {
				return m, err
			}
			held = cfg.DataDir // it was taken after heldLock looked
		}
		if !time.Now().Before(deadline) {
			return nil, fmt.Errorf("--data-dir %s is in use by another process, which holds the lock of %s; stop that process, or name another directory", cfg.DataDir, held)
		}
		if held != told {
			lg.Warn("another process holds a lock; waiting for it. Is it another octopiid with this --data-dir, or a backup?",
				zap.String("file", held), zap.Duration("lock-timeout", cfg.LockTimeout))
			told = held
		}
		if !sleep(ctx, lockPoll) {
			return nil, nil
		}
	}
}

func lockedError(err error) bool {
	return errors.Is(err, vfs.ErrLocked) || errors.Is(err, wal.ErrLocked)
}

// heldLock returns a file of cfg that another process has locked, or "". It tries every
// lock that octopiid takes: those of flock, and etcd's on each file of its log.
func heldLock(cfg config) (string, error) {
	paths := []string{cfg.lockFile(), filepath.Join(cfg.nodeDir(), "LOCK"), filepath.Join(cfg.storeDir(), "db")}
	logs := filepath.Join(cfg.nodeDir(), "wal")
	for _, pattern := range []string{"*/LOCK", "*/*.wal"} {
		names, err := fs.Glob(os.DirFS(logs), pattern)
		if err != nil {
			return "", fmt.Errorf("--data-dir: %w", err)
		}
		for _, name := range names {
			paths = append(paths, filepath.Join(logs, name))
		}
	}
	for _, path := range paths {
		switch err := tryLock(path); {
		case errors.Is(err, vfs.ErrLocked), errors.Is(err, fileutil.ErrLocked):
			return path, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("--data-dir: %w", err)
		}
	}
	return "", nil
}

// tryLock takes the lock of a file as its user would, and gives it back.
func tryLock(path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	if filepath.Ext(path) == ".wal" {
		lock, err := fileutil.TryLockFile(path, os.O_RDWR, fileutil.PrivateFileMode)
		if err != nil {
			return err
		}
		return lock.Close()
	}
	lock, err := vfs.OS.Lock(path)
	if err != nil {
		return err
	}
	return lock.Close()
}
