package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// The data directories of two of three members are set back to copies of different ages.
// Whichever starts first, no endpoint serves, in silence, a state that lacks what was
// acknowledged: either nobody serves, and a status says what is missing where; or a
// majority that came back first serves its own, says in its log that a member remembers
// more, and the member with the newest disk serves nothing of its branch.
func TestSetBackDirectories(t *testing.T) {
	// The simulator has all orders, of three and five: TestImagesInEveryOrder.
	for _, order := range [][]int{{0, 1, 2}, {2, 0, 1}, {1, 2, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			c := startCluster(t)
			by := client(t, nil, c.endpoints[2])
			// All know of all, as each has led.
			put := func(from, to int) {
				for i := from; i < to; i++ {
					c.put(by, fmt.Sprint("value ", i))
				}
			}
			put(0, 20)
			c.copyOf(0, "old")
			put(20, 40)
			c.copyOf(1, "old")
			put(40, 60)
			time.Sleep(1200 * time.Millisecond) // what is known of others is written twice a second
			for _, p := range c.processes {
				p.kill()
			}
			for _, i := range []int{0, 1} {
				if err := os.RemoveAll(c.dataDir(i)); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(c.dataDir(i)+".old", c.dataDir(i)); err != nil {
					t.Fatal(err)
				}
			}
			for _, i := range order {
				c.start(i)
				time.Sleep(2 * time.Second) // an election's time, so that two that can go on do
			}
			c.noSilentLoss("value 59")
		})
	}
}

// copyOf copies the directory of a member that stands still meanwhile.
func (c *cluster) copyOf(i int, as string) {
	c.t.Helper()
	c.processes[i].kill()
	if err := os.CopyFS(c.dataDir(i)+"."+as, os.DirFS(c.dataDir(i))); err != nil {
		c.t.Fatal(err)
	}
	c.start(i)
	c.processes[i].waitReady()
}

// noSilentLoss reads from every endpoint, linearizable and serializable, and fails where
// one answers without the last value and nobody has said that something is missing.
func (c *cluster) noSilentLoss(last string) {
	c.t.Helper()
	seen := map[string][]int{}
	for i, endpoint := range c.endpoints {
		by := client(c.t, nil, endpoint)
		for _, opts := range [][]clientv3.OpOption{nil, {clientv3.WithSerializable()}} {
			ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
			resp, err := by.Get(ctx, "k", opts...)
			cancel()
			if err == nil && len(resp.Kvs) == 1 {
				v := string(resp.Kvs[0].Value)
				seen[v] = append(seen[v], i)
				c.t.Logf("%s answers %q, serializable=%v", memberName(i), v, opts != nil)
			} else {
				c.t.Logf("%s answers nothing: %v", memberName(i), err)
			}
		}
	}
	if len(seen) > 1 {
		c.t.Errorf("two branches are served: %v", seen)
	}
	said := false
	for _, p := range c.processes {
		text := p.text()
		said = said || strings.Contains(text, "remembers what the majority does not have") || strings.Contains(text, "this member serves nothing until") ||
			strings.Contains(text, "log is another one than that of the majority")
	}
	if len(seen[last]) == 0 && !said {
		c.t.Errorf("nobody has %q, and nobody says so", last)
	}
}
