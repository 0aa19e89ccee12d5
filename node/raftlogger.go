package node

import (
	"fmt"

	"go.uber.org/zap"
)

// raftLogger gives raft's own log to zap. What raft tells of as it goes is for
// those who look into it: it comes at the debug level.
type raftLogger struct{ *zap.SugaredLogger }

func (l raftLogger) Debug(...any)                     {}
func (l raftLogger) Debugf(string, ...any)            {}
func (l raftLogger) Info(v ...any)                    { l.SugaredLogger.Debug(v...) }
func (l raftLogger) Infof(format string, v ...any)    { l.SugaredLogger.Debugf(format, v...) }
func (l raftLogger) Warning(v ...any)                 { l.Warn(v...) }
func (l raftLogger) Warningf(format string, v ...any) { l.Warnf(format, v...) }

// Fatal and Fatalf must not end a process that is not ours.
func (l raftLogger) Fatal(v ...any)                 { l.SugaredLogger.Panic(v...) }
func (l raftLogger) Fatalf(format string, v ...any) { l.SugaredLogger.Panic(fmt.Sprintf(format, v...)) }
