package main

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/octopii/octopii/wal"
	"github.com/octopii/octopii/wal/etcdwal"
)

// The formats of the write-ahead log.
const (
	walNative = "native"
	walEtcd   = "etcd"
)

func addWALFlag(f *pflag.FlagSet) {
	f.String("wal", walNative, "`format` of the write-ahead log: native, or etcd")
}

func checkWAL(format string) error {
	if format != walNative && format != walEtcd {
		return fmt.Errorf("--wal %q: use %s or %s", format, walNative, walEtcd)
	}
	return nil
}

// walBackend returns what reads and writes a format, which was checked.
func walBackend(format string, lg *zap.Logger) wal.Backend {
	if format == walEtcd {
		return etcdwal.New(lg.Named("wal"))
	}
	return wal.New(wal.Options{})
}

// walError adds the flag to what the backend says of a log in the format that was
// not asked for: how to convert it.
func walError(c config, err error) error {
	if !errors.Is(err, wal.ErrFormat) {
		return err
	}
	other := walEtcd
	if c.WAL == walEtcd {
		other = walNative
	}
	return fmt.Errorf("--wal=%s is not the format of %s, --wal=%s is: %w", c.WAL, c.DataDir, other, err)
}
