// Command failover measures how long a cluster takes from the death of its leader's
// process to the next write: three real octopiid processes with their default
// configuration, on loopback, with data on a disk.
//
// In each trial two writers write as fast as they can, one through each of the members
// that will survive; the leader gets SIGKILL; and the time is taken from there to the
// end of the first write that began when the process was gone and was acknowledged.
// Then the member is started again, and the next trial begins when all agree.
//
//	cd bench && go run ./failover -trials 20
//
// scripts/failover-bench runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	if err := run(); err != nil {
		var s skip
		if errors.As(err, &s) {
			fmt.Println("SKIP:", s.reason)
			return
		}
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

// skip is a reason why nothing can be measured here.
type skip struct{ reason string }

func (s skip) Error() string { return s.reason }

type options struct {
	trials        int
	octopiid, dir string
	output        string
	timeout       time.Duration
}

func flags() options {
	var o options
	flag.IntVar(&o.trials, "trials", 20, "how often the leader is killed")
	flag.StringVar(&o.octopiid, "octopiid", "", "the daemon to measure; built from this repository if empty")
	flag.StringVar(&o.dir, "dir", "", "a folder on the disk to use; the one for temporary files if empty")
	flag.StringVar(&o.output, "o", "table", "table or json")
	flag.DurationVar(&o.timeout, "timeout", time.Second, "how long a writer waits for one write before it tries again")
	flag.Parse()
	return o
}

func run() error {
	o := flags()
	if o.trials < 1 || o.output != "table" && o.output != "json" {
		return errors.New("set -trials above 0, and -o to table or json")
	}
	work, err := os.MkdirTemp(o.dir, "failover.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if o.octopiid == "" {
		o.octopiid = filepath.Join(work, "octopiid")
		if err := build(o.octopiid); err != nil {
			return err
		}
	}
	c, err := startCluster(o.octopiid, work)
	if err != nil {
		return err
	}
	defer c.close()
	var trials []trial
	for range o.trials {
		t, err := c.trial(o.timeout)
		if err != nil {
			return fmt.Errorf("trial %d: %w", len(trials)+1, err)
		}
		trials = append(trials, t)
		if o.output == "table" {
			fmt.Fprintf(os.Stderr, "%2d: %s\n", len(trials), t)
		}
	}
	return report(trials, o.output)
}

// build makes the daemon of the repository that this program is in.
func build(to string) error {
	if _, err := exec.LookPath("go"); err != nil {
		return skip{"there is no go to build octopiid with; name one with -octopiid"}
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return skip{"this is not run inside of bench/ of the repository; name a daemon with -octopiid"}
	}
	cmd := exec.Command("go", "build", "-o", to, "./cmd/octopiid")
	cmd.Dir = filepath.Dir(strings.TrimSpace(string(out)))
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build octopiid: %w\n%s", err, text)
	}
	return nil
}

// trial is what was measured, each from the kill on. Known and Elected are from the
// survivors' logs, and 0 where they say nothing: when the first of them knew that the
// process is dead, and when the first had another leader. Write is the result.
type trial struct {
	Known   time.Duration
	Elected time.Duration
	Write   time.Duration
	// Failed counts writes that began before that one and failed.
	Failed int
}

func (t trial) String() string {
	return fmt.Sprintf("known %s ms, elected %s ms, first write %s ms, %d failed", ms(t.Known), ms(t.Elected), ms(t.Write), t.Failed)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()*1000) }

// trial kills the leader once.
func (c *cluster) trial(timeout time.Duration) (trial, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	leader, err := c.settled(ctx)
	if err != nil {
		return trial{}, err
	}
	w := newWriters(c, leader, timeout)
	defer w.stop()
	if err := w.warm(ctx); err != nil {
		return trial{}, err
	}
	killed := time.Now()
	c.members[leader].kill()
	w.gone(time.Now())
	first, failed, err := w.first(ctx)
	if err != nil {
		return trial{}, err
	}
	w.stop()
	t := trial{Write: first.Sub(killed), Failed: failed}
	t.Known, t.Elected = c.noticed(leader, killed)
	return t, c.members[leader].start(ctx)
}

// summary is over all trials, of one of their times, in milliseconds.
type summary struct {
	Median float64 `json:"median_ms"`
	Worst  float64 `json:"worst_ms"`
}

func summarize(trials []trial, of func(trial) time.Duration) summary {
	var all []float64
	for _, t := range trials {
		all = append(all, of(t).Seconds()*1000)
	}
	slices.Sort(all)
	n := len(all)
	return summary{Median: (all[(n-1)/2] + all[n/2]) / 2, Worst: all[n-1]}
}

func report(trials []trial, output string) error {
	known := summarize(trials, func(t trial) time.Duration { return t.Known })
	elected := summarize(trials, func(t trial) time.Duration { return t.Elected })
	write := summarize(trials, func(t trial) time.Duration { return t.Write })
	if output == "json" {
		type row struct {
			Known   float64 `json:"known_ms"`
			Elected float64 `json:"elected_ms"`
			Write   float64 `json:"first_write_ms"`
			Failed  int     `json:"failed_writes"`
		}
		var rows []row
		for _, t := range trials {
			rows = append(rows, row{t.Known.Seconds() * 1000, t.Elected.Seconds() * 1000, t.Write.Seconds() * 1000, t.Failed})
		}
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"trials": rows, "known": known, "elected": elected, "first_write": write})
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "from kill -9 of the leader, %d trials\tmedian, ms\tworst, ms\n", len(trials))
	fmt.Fprintf(t, "a survivor knows\t%.1f\t%.1f\n", known.Median, known.Worst)
	fmt.Fprintf(t, "a survivor has another leader\t%.1f\t%.1f\n", elected.Median, elected.Worst)
	fmt.Fprintf(t, "first write acknowledged\t%.1f\t%.1f\n", write.Median, write.Worst)
	return t.Flush()
}
