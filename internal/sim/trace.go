package sim

import (
	"fmt"
	"sort"
	"strings"

	"go.uber.org/zap/zapcore"
)

// traceCore writes what a member logs into the trace.
type traceCore struct {
	m      *member
	fields []zapcore.Field
}

func (t traceCore) Enabled(zapcore.Level) bool { return true }

func (t traceCore) With(fields []zapcore.Field) zapcore.Core {
	return traceCore{t.m, append(t.fields[:len(t.fields):len(t.fields)], fields...)}
}

func (t traceCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, t)
}

func (t traceCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(t.fields[:len(t.fields):len(t.fields)], fields...) {
		if f.Key != "member" {
			f.AddTo(enc)
		}
	}
	var parts []string
	for k, v := range enc.Fields {
		parts = append(parts, fmt.Sprintf("%s=%v", k, v))
	}
	sort.Strings(parts)
	t.m.w.tell(t.m, "  %s %s %s", e.Level, e.Message, strings.Join(parts, " "))
	return nil
}

func (t traceCore) Sync() error { return nil }
