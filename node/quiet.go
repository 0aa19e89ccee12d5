package node

import (
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/loglimit"
)

// quiet bounds the warnings that others can cause as often as they like, one kind apart
// from another.
type quiet struct{ refusals, messages, suspects loglimit.Limit }

// warnSome logs a warning if its kind was not logged in the second before.
func (n *Node) warnSome(kind *loglimit.Limit, message string, fields ...zap.Field) {
	others, ok := kind.Pass(n.host.now())
	if !ok {
		return
	}
	if others > 0 {
		fields = append(fields, zap.Int("others since the last line", others))
	}
	n.log.Warn(message, fields...)
}
