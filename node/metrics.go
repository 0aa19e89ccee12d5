package node

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics shows a node's Status to Prometheus. It reads when it is asked, and
// costs nothing otherwise.
type metrics struct {
	node    *group
	gauges  []gauge
	appends prometheus.Histogram
}

type gauge struct {
	desc  *prometheus.Desc
	value func(Status) float64
}

// newMetrics registers the metrics of a node. Several nodes may share a
// registry: each has its ID as a label.
func newMetrics(g *group) (*metrics, error) {
	labels := prometheus.Labels{"member": hex(g.id)}
	m := &metrics{node: g, appends: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:        "octopii_node_append_seconds",
		Help:        "Time that one group of appends took to become durable.",
		ConstLabels: labels,
		Buckets:     prometheus.ExponentialBuckets(50e-6, 2, 16),
	})}
	add := func(name, help string, value func(Status) float64) {
		m.gauges = append(m.gauges, gauge{prometheus.NewDesc("octopii_node_"+name, help, nil, labels), value})
	}
	add("term", "Raft term.", func(s Status) float64 { return float64(s.Term) })
	add("is_leader", "1 if this member leads.", func(s Status) float64 { return oneIf(s.Role == Leader) })
	add("has_leader", "1 if this member knows a leader.", func(s Status) float64 { return oneIf(s.Leader != 0) })
	add("commit_index", "Last committed log index.", func(s Status) float64 { return float64(s.Commit) })
	add("applied_index", "Last log index that the state machine has.", func(s Status) float64 { return float64(s.Applied) })
	add("last_index", "Last durable log index.", func(s Status) float64 { return float64(s.LastIndex) })
	add("snapshot_index", "Log index of the newest snapshot or mark.", func(s Status) float64 { return float64(s.SnapshotIndex) })
	add("members", "Members of the cluster.", func(s Status) float64 { return float64(len(s.Membership.Members)) })
	add("format_level", "Format level of the cluster.", func(s Status) float64 { return float64(s.Membership.FormatLevel) })
	add("pending_proposals", "Calls that wait for their outcome on this member.", func(Status) float64 { return float64(g.pending.Load()) })
	add("no_space", "1 if the disk is full and proposals are refused.", func(s Status) float64 { return oneIf(s.NoSpace) })
	add("disk_stalled_seconds", "For how long the oldest write to the log has not returned.", func(s Status) float64 { return s.DiskStalled.Seconds() })
	if g.cfg.Metrics == nil {
		return m, nil
	}
	if err := g.cfg.Metrics.Register(m); err != nil {
		return nil, fmt.Errorf("node: register metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) unregister() {
	if r := m.node.cfg.Metrics; r != nil {
		r.Unregister(m)
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range m.gauges {
		ch <- g.desc
	}
	m.appends.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	st := m.node.status()
	for _, g := range m.gauges {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(st))
	}
	m.appends.Collect(ch)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
