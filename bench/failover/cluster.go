package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// cluster is three processes that this program started.
type cluster struct {
	members []*member
}

// member is a process that comes and goes, and a connection to where it serves.
type member struct {
	program string
	args    []string
	conn    *grpc.ClientConn

	cmd *exec.Cmd // nil while it does not run
	// ended is closed when all that the process wrote was read.
	ended chan struct{}
	ready chan struct{}

	mu   sync.Mutex
	said []line
}

// line is what is read of a line of a member's log.
type line struct {
	Message string `json:"msg"`
	Time    string `json:"ts"`
	Leader  string `json:"leader"`
	text    string
	at      time.Time
}

// logTime is how octopiid writes a moment: to the millisecond.
const logTime = "2006-01-02T15:04:05.000Z0700"

func startCluster(program, dir string) (*cluster, error) {
	c := &cluster{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	founder := ""
	for i := range 3 {
		clients, err := freeAddress()
		if err != nil {
			return nil, err
		}
		peers, err := freeAddress()
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("m%d", i+1)
		m := &member{program: program, args: []string{"start", "--name", name, "--data-dir", filepath.Join(dir, name),
			"--client-addr", clients, "--peer-addr", peers}}
		if i == 0 {
			founder = peers
			m.args = append(m.args, "--bootstrap", "--found-after", "0")
		} else {
			m.args = append(m.args, "--join", founder)
		}
		if m.conn, err = grpc.NewClient(clients, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			return nil, err
		}
		c.members = append(c.members, m)
		if err := m.start(ctx); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

// freeAddress is one of a port that the system gives to nobody by itself, so that a
// process can be started on it again.
func freeAddress() (string, error) {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", skip{"no port is free between 10000 and 30000"}
}

func (c *cluster) close() {
	for _, m := range c.members {
		m.kill()
		_ = m.conn.Close()
	}
}

// start runs the process, and waits until it serves clients.
func (m *member) start(ctx context.Context) error {
	m.cmd = exec.Command(m.program, m.args...)
	stderr, err := m.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := m.cmd.Start(); err != nil {
		m.cmd = nil
		return err
	}
	m.ended, m.ready = make(chan struct{}), make(chan struct{})
	go m.listen(stderr, m.ended, m.ready)
	select {
	case <-m.ready:
		return nil
	case <-m.ended:
		return fmt.Errorf("octopiid ended before it was ready: %s", m.last())
	case <-ctx.Done():
		return fmt.Errorf("octopiid is not ready: %s", m.last())
	}
}

func (m *member) listen(log io.Reader, ended, ready chan struct{}) {
	defer close(ended)
	for lines := bufio.NewScanner(log); lines.Scan(); {
		l := line{text: lines.Text()}
		_ = json.Unmarshal(lines.Bytes(), &l) // what is no such line is only shown
		l.at, _ = time.Parse(logTime, l.Time)
		m.mu.Lock()
		m.said = append(m.said, l)
		m.mu.Unlock()
		if l.Message == "ready to serve clients" {
			close(ready)
		}
	}
}

func (m *member) last() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.said) == 0 {
		return "it said nothing"
	}
	return m.said[len(m.said)-1].text
}

// kill ends the process with SIGKILL, and returns when it is gone.
func (m *member) kill() {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	_, _ = m.cmd.Process.Wait()
	<-m.ended
	m.cmd = nil
}

// settled waits until all members follow one leader, and returns which it is.
func (c *cluster) settled(ctx context.Context) (int, error) {
	for {
		leader, err := c.leader(ctx)
		if err == nil {
			return leader, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("the cluster does not come to rest: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *cluster) leader(ctx context.Context) (int, error) {
	ids := map[uint64]int{}
	var leader uint64
	for i, m := range c.members {
		st, err := pb.NewMaintenanceClient(m.conn).Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(true))
		if err != nil {
			return 0, err
		}
		if i > 0 && st.Leader != leader {
			return 0, errors.New("they do not agree who leads")
		}
		leader = st.Leader
		ids[st.Header.MemberId] = i
	}
	i, ok := ids[leader]
	if !ok {
		return 0, errors.New("nobody leads")
	}
	return i, nil
}

// noticed reads in the survivors' logs when the first of them knew that the leader's
// process is dead, and when the first had another leader, as times since then.
func (c *cluster) noticed(leader int, since time.Time) (known, elected time.Duration) {
	for i, m := range c.members {
		if i == leader {
			continue
		}
		m.mu.Lock()
		for _, l := range m.said {
			after := l.at.Sub(since)
			switch {
			case after < 0:
			case l.Message == "nobody listens there any more" && (known == 0 || after < known):
				known = after
			case l.Message == "leader changed" && l.Leader != "0" && (elected == 0 || after < elected):
				elected = after
			}
		}
		m.mu.Unlock()
	}
	return known, elected
}
