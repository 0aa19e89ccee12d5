package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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
			c.waitRemembered(by, "value 59")
			for _, p := range c.processes {
				p.kill()
			}
			c.setBack(0, 1)
			for at, i := range order {
				c.start(i)
				c.waitDecided(order[:at+1])
			}
			c.noSilentLoss("value 59")
		})
	}
}

// Two of three disks are set back to the same moment, start first, and go on. The third
// has what they forgot: all members name the entries in their logs, and its files are put
// aside whole before it joins again.
func TestMajorityForgot(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	by := client(t, nil, c.endpoints...)
	c.put(by, "kept")
	for i := range c.processes {
		c.processes[i].kill()
	}
	for _, i := range []int{0, 1} {
		if err := os.CopyFS(c.dataDir(i)+".old", os.DirFS(c.dataDir(i))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range c.processes {
		c.start(i)
	}
	c.waitReady()
	for i := range 10 {
		c.put(by, fmt.Sprint("forgotten ", i))
	}
	old := c.id(2, memberName(2))
	for _, p := range c.processes {
		p.kill()
	}
	c.setBack(0, 1)
	c.start(0)
	c.start(1)
	c.put(client(t, nil, c.endpoints[:2]...), "the majority's")

	c.start(2)
	c.waitReplaced(2, old, "the majority's")
	for i := range 2 {
		if text := c.processes[i].text(); !strings.Contains(text, "a majority forgot entries that a member has committed") || !strings.Contains(text, fmt.Sprintf("%x", old)) {
			t.Errorf("%s does not say that a majority forgot what member %x has:\n%s", memberName(i), old, text)
		}
	}
	for _, endpoint := range c.endpoints[:2] { // also now that the old self is no member
		st, err := client(t, nil, endpoint).Status(t.Context(), endpoint)
		if err != nil || !strings.Contains(strings.Join(st.Errors, " "), fmt.Sprintf("which member %x had, which is no member any more", old)) {
			t.Errorf("the status of %s does not say what was forgotten: %v, %v", endpoint, st, err)
		}
	}
	text := c.processes[2].text()
	if !strings.Contains(text, "are committed here and not there") || !strings.Contains(text, "quarantine") {
		t.Errorf("it does not say what only it has, and where it is:\n%s", text)
	}
	for _, dir := range []string{"node", "kv"} {
		kept, err := filepath.Glob(filepath.Join(c.dataDir(2), "quarantine", "*", dir, "*"))
		if err != nil || len(kept) == 0 {
			t.Errorf("no files of %s in the quarantine: %v, %v", dir, kept, err)
		}
	}
}

// waitRemembered waits until every member has written down what it knows of the others, with
// value, which is there. It is written again each time: a member that knows nothing new writes
// nothing down, and a file's time is a little behind.
func (c *cluster) waitRemembered(by *clientv3.Client, value string) {
	c.t.Helper()
	since := time.Now()
	until(c.t, func(ctx context.Context) error {
		if _, err := by.Put(ctx, "k", value); err != nil {
			return err
		}
		for i := range c.processes {
			info, err := os.Stat(filepath.Join(c.dataDir(i), "node", "memory"))
			if err != nil {
				return err
			}
			if info.ModTime().Before(since) {
				return fmt.Errorf("%s has written down nothing since %v", memberName(i), since)
			}
		}
		return nil
	})
}

// setBack puts the copies of directories in their place.
func (c *cluster) setBack(members ...int) {
	c.t.Helper()
	for _, i := range members {
		if err := os.RemoveAll(c.dataDir(i)); err != nil {
			c.t.Fatal(err)
		}
		if err := os.Rename(c.dataDir(i)+".old", c.dataDir(i)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// waitDecided waits until members that were started are answered by a leader, or one of
// them says that it serves nothing, if there are enough for either.
func (c *cluster) waitDecided(started []int) {
	c.t.Helper()
	until(c.t, func(ctx context.Context) error {
		decided := len(started) < 2
		for _, i := range started {
			st, err := client(c.t, nil, c.endpoints[i]).Status(ctx, c.endpoints[i])
			if err != nil {
				return err
			}
			decided = decided || st.Leader != 0 || strings.Contains(strings.Join(st.Errors, " "), "serves nothing")
		}
		if !decided {
			return fmt.Errorf("%v have no leader, and serve", started)
		}
		return nil
	})
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
