package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/octopii/octopii/node"
)

func startCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Run one member of a cluster",
		Long: `Run one member of a cluster.

The same command works for every start: --bootstrap, --join and --wait are ignored
once the data directory is initialized. A flag --some-flag can also be given as
OCTOPII_SOME_FLAG in the environment or as some-flag in the file that --config
names; flags come before the environment, and the environment before the file.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd.Flags(), environ)
			if err != nil {
				return err
			}
			if err := cfg.checkFounding(); err != nil {
				return err
			}
			if err := serve(cmd.Context(), cfg, newLogger(cmd.ErrOrStderr(), cfg.LogLevel)); err != nil {
				return failure{err}
			}
			return nil
		},
	}
	addFlags(cmd.Flags())
	return cmd
}

// newLogger writes one JSON object a line. level was checked.
func newLogger(w io.Writer, level string) *zap.Logger {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	l, _ := zapcore.ParseLevel(level)
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.Lock(zapcore.AddSync(w)), l))
}

// runMember runs a member until ctx ends, which is no error, or it stops by itself.
func runMember(ctx context.Context, cfg config, lg *zap.Logger) error {
	m, err := startMember(cfg, lg)
	if err != nil {
		return err
	}
	select {
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

// whyDone says why a node stopped by itself.
func whyDone(err error) error {
	if errors.Is(err, node.ErrRemoved) {
		return err
	}
	return fmt.Errorf("the node stopped: %w", err)
}
