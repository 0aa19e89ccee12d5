package node_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport/tcp"
)

// tally is a replicated counter: every command adds its length.
type tally struct{ total uint64 }

func (t *tally) Durable() (uint64, bool) { return 0, false } // it lives in memory

func (t *tally) Apply(entries []node.Entry) ([][]byte, error) {
	results := make([][]byte, len(entries))
	for i, e := range entries {
		t.total += uint64(len(e.Data))
		results[i] = binary.BigEndian.AppendUint64(nil, t.total)
	}
	return results, nil
}

func (t *tally) Snapshot() (node.Snapshot, error) { return total(t.total), nil }

func (t *tally) Restore(_ uint64, r io.Reader) error {
	return binary.Read(r, binary.BigEndian, &t.total)
}

// total is a captured state.
type total uint64

func (s total) WriteTo(w io.Writer) (int64, error) { return 8, binary.Write(w, binary.BigEndian, s) }
func (s total) Close() error                       { return nil }

// A replicated counter: here the cluster has one member, and others join by
// being started with Join instead of Bootstrap.
func Example() {
	dir, err := os.MkdirTemp("", "octopii")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	tr, err := tcp.New(tcp.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	n, err := node.Start(node.Config{Dir: dir, StateMachine: &tally{}, Transport: tr, Bootstrap: true})
	if err != nil {
		log.Fatal(err)
	}
	defer n.Close()
	for _, word := range []string{"one", "three", "five"} {
		r, err := n.Propose(context.Background(), []byte(word))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(word, "->", binary.BigEndian.Uint64(r.Data))
	}
	// Output:
	// one -> 3
	// three -> 8
	// five -> 12
}
