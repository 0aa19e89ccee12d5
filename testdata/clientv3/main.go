// Command clientv3 is a program of a user who embeds package node and also talks
// to an etcd cluster with the client of etcd 3.7. It is a module of its own, so
// that it has that version while Octopii's own daemon has etcd's server packages
// of 3.6, which do not compile beside it. scripts/clientv3-beside builds and runs
// it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport/tcp"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "clientv3-beside-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	peers, err := tcp.New(tcp.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	n, err := node.Start(node.Config{Dir: dir, StateMachine: &last{}, Transport: peers, Bootstrap: true})
	if err != nil {
		return err
	}
	defer n.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := n.Propose(ctx, []byte("hello"))
	if err != nil {
		return err
	}
	// Nobody listens there, and nobody has to: the client is linked and runs.
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}})
	if err != nil {
		return err
	}
	defer client.Close()
	fmt.Printf("a node committed index %d beside clientv3 %s\n", r.Index, version.Version)
	return nil
}

// last is a state machine that remembers the last command.
type last struct{ command string }

func (l *last) Durable() (uint64, bool) { return 0, false }

func (l *last) Apply(entries []node.Entry) ([][]byte, error) {
	l.command = string(entries[len(entries)-1].Data)
	return nil, nil
}

func (l *last) Snapshot() (node.Snapshot, error) {
	return captured{strings.NewReader(l.command)}, nil
}

func (l *last) Restore(_ uint64, r io.Reader) error {
	data, err := io.ReadAll(r)
	l.command = string(data)
	return err
}

type captured struct{ *strings.Reader }

func (captured) Close() error { return nil }
