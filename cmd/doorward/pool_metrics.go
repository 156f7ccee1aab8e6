package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/doorward/doorward/plugins/sandbox"
)

// poolMetrics shows operators what a node's sandbox.Pool does.
type poolMetrics struct{ pool *sandbox.Pool }

var (
	workersDesc     = prometheus.NewDesc("doorward_sandbox_workers", "Worker processes, by what they do.", []string{"state"}, nil)
	compilingDesc   = prometheus.NewDesc("doorward_sandbox_compiles_waiting", "Modules that wait for a compile.", nil, nil)
	compileFullDesc = prometheus.NewDesc("doorward_sandbox_compiles_refused_total", "Compiles turned away because too many waited.", nil, nil)
	quarantineDesc  = prometheus.NewDesc("doorward_sandbox_quarantines_total", "Verifier versions quarantined because they ended worker after worker.", nil, nil)
	openedDesc      = prometheus.NewDesc("doorward_sandbox_breakers_opened_total", "Verifier versions not run for a while because they overran their wall limit again and again.", nil, nil)
	brokenDesc      = prometheus.NewDesc("doorward_sandbox_calls_refused_total", "Calls refused by a quarantine or an open breaker.", nil, nil)
	stillbornDesc   = prometheus.NewDesc("doorward_sandbox_workers_stillborn_total", "Workers that died before they had loaded anything.", nil, nil)
	confinedDesc    = prometheus.NewDesc("doorward_sandbox_confined", "Whether, at the start, a process of a verifier was refused what it must not do: 1 refused, 0 not.", []string{"part", "what"}, nil)
	imagesDesc      = prometheus.NewDesc("doorward_sandbox_images", "Whether, at the start, a worker could set an instance of a verifier back after a login: 1 it could, 0 each login has one made anew, which costs more.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m poolMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{workersDesc, compilingDesc, compileFullDesc, quarantineDesc, openedDesc, brokenDesc, stillbornDesc, confinedDesc, imagesDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m poolMetrics) Collect(to chan<- prometheus.Metric) {
	workers, idle := m.pool.Stats()
	to <- prometheus.MustNewConstMetric(workersDesc, prometheus.GaugeValue, float64(idle), "idle")
	to <- prometheus.MustNewConstMetric(workersDesc, prometheus.GaugeValue, float64(workers-idle), "busy")
	for _, b := range m.pool.Bounds() {
		for _, what := range b.Refused {
			to <- prometheus.MustNewConstMetric(confinedDesc, prometheus.GaugeValue, 1, b.Part, what)
		}
		for _, what := range b.Open {
			to <- prometheus.MustNewConstMetric(confinedDesc, prometheus.GaugeValue, 0, b.Part, what)
		}
		if b.Part == "worker" {
			images := 1.0
			if b.Slow != "" {
				images = 0
			}
			to <- prometheus.MustNewConstMetric(imagesDesc, prometheus.GaugeValue, images)
		}
	}
	c := m.pool.Counters()
	to <- prometheus.MustNewConstMetric(compilingDesc, prometheus.GaugeValue, float64(c.Compiling))
	for desc, n := range map[*prometheus.Desc]int64{
		compileFullDesc: c.Refused, quarantineDesc: c.Quarantines, openedDesc: c.Opened, brokenDesc: c.Broken, stillbornDesc: c.Stillborn,
	} {
		to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n))
	}
}
