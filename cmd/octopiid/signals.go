package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// untilSignal returns a context that ends with the first SIGINT or SIGTERM: then a
// member hands over, drains and stops. The second ends the process at once, which
// loses nothing that was acknowledged.
func untilSignal(stderr io.Writer) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		s := <-signals
		fmt.Fprintf(stderr, "octopiid: a second signal (%v): ending at once\n", s)
		os.Exit(exitFailure)
	}()
	return ctx, cancel
}
