package node

import (
	"sync"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/loglimit"
	"github.com/octopii/octopii/transport"
)

// process is what a group needs of the process that it is in: something to run on, a way to
// the other members, and where it tells what happened. A process with many groups would have
// one, and what is a group's own is in group: see ARCHITECTURE, "A group and its process".
type process struct {
	host      host
	transport transport.Transport
	// helpers are the goroutines that come and go.
	helpers sync.WaitGroup

	log     *zap.Logger
	quiet   quiet
	events  *events
	metrics *metrics
	// callbacks are the calls of user code that are under way.
	callbacks callbacks
	watchdog  watchdog
}

// quiet bounds the warnings that others can cause as often as they like, one kind apart
// from another.
type quiet struct{ refusals, messages, suspects, dismissals loglimit.Limit }

// warnSome logs a warning if its kind was not logged in the second before.
func (p *process) warnSome(kind *loglimit.Limit, message string, fields ...zap.Field) {
	others, ok := kind.Pass(p.host.now())
	if !ok {
		return
	}
	if others > 0 {
		fields = append(fields, zap.Int("others since the last line", others))
	}
	p.log.Warn(message, fields...)
}

// authenticated says whether peers prove by certificates that they are peers.
func (p *process) authenticated() bool {
	a, ok := p.transport.(transport.Authenticated)
	return ok && a.Authenticated()
}
