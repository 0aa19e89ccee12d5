package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/octopii/octopii/node"
)

// readyTimeout bounds the linearizable read that /readyz makes.
const readyTimeout = 1500 * time.Millisecond

func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// handler serves /metrics; /livez, which says that the process runs; and
// /readyz, which says that it can answer a linearizable read, and votes if it is to: whoever
// replaces one machine after the other by it must not go on before.
func (m *member) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		select {
		case <-m.ready:
		default:
			http.Error(w, "not ready: "+cmp.Or(m.store.Stuck(), notReady(m.node.Status())), http.StatusServiceUnavailable)
			return
		}
		if _, err := m.node.ReadBarrier(ctx, node.Linearizable); err != nil {
			http.Error(w, "not ready: "+cmp.Or(m.store.Stuck(), notServing(m.node.Status()), err.Error()), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// notServing says why a member that was ready does not answer a read, if that is known.
func notServing(st node.Status) string {
	if st.NoRoomForSnapshot {
		return node.AdviceNoRoomForSnapshot
	}
	if st.Behind != nil {
		return st.Behind.Error()
	}
	return st.NoMajority()
}

// notReady says why a member is not ready that has not been since it was started.
func notReady(st node.Status) string {
	switch {
	case st.Role == node.Uninitialized && st.NoRoomForSnapshot:
		return node.AdviceNoRoomForSnapshot
	case st.Role == node.Uninitialized:
		return "this member is not part of a cluster yet"
	case st.Suspended != nil:
		return st.Suspended.Error()
	case st.NoRoomForSnapshot:
		return node.AdviceNoRoomForSnapshot
	}
	if st.Leader == 0 {
		return cmp.Or(st.NoMajority(), "this member hears of no leader yet")
	}
	return cmp.Or(st.NoMajority(), "this member is being brought up to date: it does not vote yet, or has not told the others where its clients find it")
}
