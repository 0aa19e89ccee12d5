package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node/comeback"
	"github.com/octopii/octopii/wal"
)

// lockPoll is how often a lock that another process holds is tried.
const lockPoll = 100 * time.Millisecond

// lockDir keeps other processes out of a data directory until the result is closed. The
// error is vfs.ErrLocked where one is in it.
func lockDir(cfg config) (io.Closer, error) {
	_, before := os.Stat(cfg.DataDir)
	err := os.MkdirAll(cfg.DataDir, 0o700)
	if err == nil && errors.Is(before, fs.ErrNotExist) { // else a crash may take all that is in it
		err = vfs.OS.SyncDir(filepath.Dir(filepath.Clean(cfg.DataDir)))
	}
	if err != nil {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}
	lock, err := vfs.OS.Lock(cfg.lockFile())
	if err != nil {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}
	return lock, nil
}

// inUse is for an operator.
func inUse(cfg config, held string) error {
	return fmt.Errorf("--data-dir %s is in use by another process, which holds the lock of %s; stop that process, or name another directory", cfg.DataDir, held)
}

// lockWhenFree is lockDir as soon as no other process has the directory. It returns neither
// a lock nor an error if ctx ended first.
func lockWhenFree(ctx context.Context, cfg config, lg *zap.Logger) (lock io.Closer, err error) {
	err = whenUnlocked(ctx, cfg, lg, func() (held string, err error) {
		lock, err = lockDir(cfg)
		if lockedError(err) {
			return cfg.lockFile(), nil
		}
		return "", err
	})
	return lock, err
}

// startWhenUnlocked starts a member as soon as no other process holds a lock of its files.
// It returns neither a member nor an error if ctx ended first.
func startWhenUnlocked(ctx context.Context, cfg config, lg *zap.Logger, back *comeback.Member, from comeback.Origin) (m *member, err error) {
	err = whenUnlocked(ctx, cfg, lg, func() (held string, err error) {
		if held, err = heldLock(cfg); held != "" || err != nil {
			return held, err
		}
		m, err = startMember(cfg, lg, back, from)
		if lockedError(err) {
			return cfg.DataDir, nil // it was taken after heldLock looked
		}
		return "", err
	})
	return m, err
}

// whenUnlocked calls try until that finds no lock that another process, such as a backup,
// holds, or ctx ends. It logs which file it waits for, and gives up after cfg.LockTimeout,
// so that a supervisor sees it.
func whenUnlocked(ctx context.Context, cfg config, lg *zap.Logger, try func() (held string, err error)) error {
	deadline, told := time.Now().Add(cfg.LockTimeout), ""
	for {
		held, err := try()
		if held == "" || err != nil {
			return err
		}
		if !time.Now().Before(deadline) {
			return inUse(cfg, held)
		}
		if held != told {
			lg.Warn("another process holds a lock; waiting for it. Is it another octopiid with this --data-dir, or a backup?",
				zap.String("file", held), zap.Duration("lock-timeout", cfg.LockTimeout))
			told = held
		}
		if !sleep(ctx, lockPoll) {
			return nil
		}
	}
}

func lockedError(err error) bool {
	return errors.Is(err, vfs.ErrLocked) || errors.Is(err, wal.ErrLocked)
}

// heldLock returns a file of cfg that another process has locked, or "". It tries every
// lock that octopiid takes in a data directory: those of flock, and etcd's on each file of
// its log.
func heldLock(cfg config) (string, error) {
	paths := []string{filepath.Join(cfg.nodeDir(), "LOCK"), filepath.Join(cfg.storeDir(), "db")}
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
