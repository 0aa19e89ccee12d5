package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/stats"
)

const (
	// ownFiles are descriptors that clients and strangers leave to the log, the database,
	// snapshots, the other members and whoever looks at the metrics: a member of three has
	// 28 open, and each further member takes some four.
	ownFiles = 80
	// strangersShare is the part of all other descriptors that strangers at the address for
	// members may have, a tenth of them for each of its five kinds of places.
	strangersMin, strangersMax, strangersShare = 3, 64, 10
	// clientConnsMin is with how few connections of clients it is worth to start.
	clientConnsMin = 16
	// clientConnsDefault bounds them where the system sets no limit that is lower.
	clientConnsDefault = 16384
	// metricsConnsMax bounds the connections to the metrics address.
	metricsConnsMax = 16
	// idleMin is for how long a connection must have had no request to be closed for a
	// new one.
	idleMin = time.Second
	// refusalsEvery is how often at most the log says that connections are refused.
	refusalsEvery = 10 * time.Second
)

// clientConns returns how many connections clients may have, by the process's limit of
// open files, which Go has raised as far as it may.
func clientConns(asked int) (int, error) {
	limit, err := filesMax()
	if err != nil {
		return 0, err
	}
	taken := ownFiles + strangerFiles(limit)
	most := limit - taken
	if most < clientConnsMin {
		return 0, fmt.Errorf("this process may open %d files, and needs %d at least; raise its limit (ulimit -n, LimitNOFILE) to %d or more",
			limit, taken+clientConnsMin, 1024)
	}
	if asked == 0 {
		return min(most, clientConnsDefault), nil
	}
	if asked > most {
		return 0, fmt.Errorf("--client-conns-max %d needs %d open files, and this process may open %d; raise its limit (ulimit -n, LimitNOFILE), or name a smaller number",
			asked, asked+taken, limit)
	}
	return asked, nil
}

// filesMax is how many files this process may open.
func filesMax() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return int(min(limit.Cur, 1<<30)), nil
}

// strangerConns is how many connections strangers at the address for members may have that
// have shaken hands. Twice as many may not have done so, and as many more from where members
// are: see tcp.Config.
func strangerConns(limit int) int {
	return min(max((limit-ownFiles)/strangersShare, strangersMin), strangersMax)
}

// strangerFiles are the descriptors of all of them.
func strangerFiles(limit int) int { return 5 * strangerConns(limit) }

// cappedListener accepts a bounded number of connections. What comes beyond takes the
// place of the one that has been without a request for longest; where every one is in
// use it is closed at once, so that its client goes to another member and does not wait.
type cappedListener struct {
	net.Listener
	what string
	most int
	lg   *zap.Logger

	mu    sync.Mutex
	conns map[string]*cappedConn // by the remote address
	// refused and evicted count since told, when the log was told of them.
	refused, evicted int
	told             time.Time
}

// cappedConn is a connection that counts. Its fields belong to the listener's mutex.
type cappedConn struct {
	net.Conn
	l   *cappedListener
	key string
	// requests are under way; since is when it had one last, or came.
	requests int
	since    time.Time
	gone     bool
}

func capConns(l net.Listener, what string, most int, lg *zap.Logger) *cappedListener {
	return &cappedListener{Listener: l, what: what, most: most, lg: lg, conns: make(map[string]*cappedConn)}
}

// Accept implements net.Listener.
func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.admit(raw, time.Now()); c != nil {
			return c, nil
		}
		_ = raw.Close() // its client hears of it at once
	}
}

// admit returns nil when there is no place for a connection.
func (l *cappedListener) admit(raw net.Conn, now time.Time) *cappedConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= l.most && !l.evict(now) {
		l.refused++
		l.tell(now)
		return nil
	}
	c := &cappedConn{Conn: raw, l: l, key: raw.RemoteAddr().String(), since: now}
	l.conns[c.key] = c
	return c
}

// evict closes the connection that has been without a request for longest, if that is
// long enough.
func (l *cappedListener) evict(now time.Time) bool {
	var idlest *cappedConn
	for _, c := range l.conns {
		if c.requests == 0 && now.Sub(c.since) >= idleMin && (idlest == nil || c.since.Before(idlest.since)) {
			idlest = c
		}
	}
	if idlest == nil {
		return false
	}
	l.forget(idlest)
	_ = idlest.Conn.Close()
	l.evicted++
	l.tell(now)
	return true
}

func (l *cappedListener) forget(c *cappedConn) {
	if !c.gone {
		c.gone = true
		delete(l.conns, c.key)
	}
}

func (l *cappedListener) tell(now time.Time) {
	if now.Sub(l.told) < refusalsEvery {
		return
	}
	l.lg.Warn("as many connections as there may be: new ones take the place of idle ones, or are refused; raise the limit of open files (ulimit -n, LimitNOFILE) or --client-conns-max",
		zap.String("of", l.what), zap.Int("most", l.most), zap.Int("refused", l.refused), zap.Int("idle ones closed", l.evicted))
	l.told, l.refused, l.evicted = now, 0, 0
}

// used notes that a request begins or ends on the connection from an address.
func (l *cappedListener) used(key string, delta int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.conns[key]; c != nil {
		c.requests += delta
		c.since = time.Now()
	}
}

// Close implements net.Conn.
func (c *cappedConn) Close() error {
	c.l.mu.Lock()
	c.l.forget(c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// requestCounter tells a cappedListener of gRPC's requests, which it does not see.
type requestCounter struct{ l *cappedListener }

type connKey struct{}

// TagConn implements stats.Handler.
func (requestCounter) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, connKey{}, info.RemoteAddr.String())
}

// HandleConn implements stats.Handler.
func (requestCounter) HandleConn(context.Context, stats.ConnStats) {}

// TagRPC implements stats.Handler.
func (requestCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (r requestCounter) HandleRPC(ctx context.Context, s stats.RPCStats) {
	key, _ := ctx.Value(connKey{}).(string)
	switch s.(type) {
	case *stats.Begin:
		r.l.used(key, 1)
	case *stats.End:
		r.l.used(key, -1)
	}
}
