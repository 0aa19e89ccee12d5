package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// secondSignalAfter is how long after the first signal another one is a decision. One that
// comes sooner is taken for the same: an orchestrator may signal a process and its group,
// and a terminal a process whose parent passes the signal on.
const secondSignalAfter = time.Second

// untilSignal returns a context that ends with the first SIGINT or SIGTERM: then a
// member hands over, drains and stops. A second one, secondSignalAfter later or more, ends
// the process at once, which loses nothing that was acknowledged.
func untilSignal(stderr io.Writer) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		awaitSecond(signals, cancel, stderr)
		os.Exit(exitFailure)
	}()
	return ctx, cancel
}

// awaitSecond calls stop at the first signal and returns at the second that counts.
func awaitSecond(signals <-chan os.Signal, stop func(), stderr io.Writer) {
	<-signals
	stop()
	for first := time.Now(); ; {
		s := <-signals
		if time.Since(first) >= secondSignalAfter {
			fmt.Fprintf(stderr, "octopiid: a second signal (%v): ending at once\n", s)
			return
		}
		fmt.Fprintf(stderr, "octopiid: another signal (%v) within %v of the first is taken for the same; send it again to end at once\n", s, secondSignalAfter)
	}
}
