package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/doorward/doorward/sessions"
)

// sessionMetrics shows operators what a node's sessions.Manager has seen.
type sessionMetrics struct{ manager *sessions.Manager }

var (
	findsDesc    = prometheus.NewDesc("doorward_sessions_finds_total", "Look-ups of a session, by where the answer came from: memory (no I/O), store (a read), degraded (memory, without a majority).", []string{"from"}, nil)
	reusedDesc   = prometheus.NewDesc("doorward_sessions_reused_total", "Sessions ended because a token was used again after its rotation.", nil, nil)
	heldDesc     = prometheus.NewDesc("doorward_sessions_held", "Sessions in this node's memory.", nil, nil)
	proofAgeDesc = prometheus.NewDesc("doorward_sessions_proof_age_seconds", "How old the proof is that this node's memory is fresh; above 0.5 it is not trusted, -1 is none.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m sessionMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{findsDesc, reusedDesc, heldDesc, proofAgeDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m sessionMetrics) Collect(to chan<- prometheus.Metric) {
	s := m.manager.Stats()
	for from, n := range map[string]int64{"memory": s.FromMemory, "store": s.FromStore, "degraded": s.Degraded} {
		to <- prometheus.MustNewConstMetric(findsDesc, prometheus.CounterValue, float64(n), from)
	}
	age := -1.0
	if s.ProofAge >= 0 {
		age = s.ProofAge.Seconds()
	}
	to <- prometheus.MustNewConstMetric(reusedDesc, prometheus.CounterValue, float64(s.Reused))
	to <- prometheus.MustNewConstMetric(heldDesc, prometheus.GaugeValue, float64(s.Held))
	to <- prometheus.MustNewConstMetric(proofAgeDesc, prometheus.GaugeValue, age)
}
