// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
)

// totals adds up the turns of a target.
type totals struct {
	total     report.Target // without latencies and resources
	latencies map[latencyKey]*hdrhistogram.Histogram
	client    time.Duration   // CPU time
	samples   []report.Sample // of this process
	servers   []report.Process
}

// latencyKey is a kind of answer. The zero value means all decisions.
type latencyKey struct {
	op, route, outcome string
	service            bool
}

// add adds a turn and returns its summary.
func (s *totals) add(r *bench.Result, record *local.Record) (report.Turn, error) {
	t, err := report.NewTarget(r)
	if err != nil {
		return report.Turn{}, err
	}
	for i := range t.Latencies {
		if err := s.merge(&t.Latencies[i]); err != nil {
			return report.Turn{}, err
		}
	}
	turn := report.Turn{RatePerSecond: r.Rate()}
	if overall, err := r.Overall(); err == nil {
		turn.P50, turn.P99 = overall.P50, overall.P99
	}
	if t.Resources != nil {
		s.client += t.Resources.Client.CPU
	}
	if record != nil {
		used := report.Resources{Servers: []report.Process{{CPU: record.CPU()}}}
		used.PerMillion(r.Completed)
		turn.CPUPerMillion = used.ServerCPUPerMillion
		s.record(record)
	}
	s.count(&t)
	return turn, nil
}

// count adds the counts of a turn. Its series follows those of earlier turns.
func (s *totals) count(t *report.Target) {
	total := &s.total
	for _, iv := range t.Series {
		iv.At += total.Duration
		if n := len(total.Series); n > 0 {
			before := &total.Series[n-1]
			iv.At = max(iv.At, before.At+before.Length)
		}
		total.Series = append(total.Series, iv)
	}
	for _, n := range [][2]*int64{
		{&total.Offered, &t.Offered},
		{&total.Achieved, &t.Achieved},
		{&total.Denied, &t.Denied},
		{&total.Degraded, &t.Degraded},
		{&total.Failed, &t.Failed},
		{&total.Refused, &t.Refused},
		{&total.HeldBack, &t.HeldBack},
		{&total.Dropped, &t.Dropped},
		{&total.Completed, &t.Completed},
		{&total.Unfinished, &t.Unfinished},
		{&total.LLM.Held, &t.LLM.Held},
		{&total.LLM.Reported, &t.LLM.Reported},
		{&total.LLM.Settled, &t.LLM.Settled},
		{&total.LLM.CutShort, &t.LLM.CutShort},
		{&total.LLM.SettlesFailed, &t.LLM.SettlesFailed},
		{&total.LLM.ReportsFailed, &t.LLM.ReportsFailed},
	} {
		*n[0] += *n[1]
	}
	if p := t.Pacer; p != nil {
		// Before the duration is added: KeptRate is the mean of all rounds.
		kept := p.KeptRate * t.Duration.Seconds()
		if total.Pacer != nil {
			kept += total.Pacer.KeptRate * total.Duration.Seconds()
		}
		if total.Pacer == nil {
			total.Pacer = &report.Pacer{}
		}
		// The worst round counts.
		w := total.Pacer
		w.P50, w.P99, w.Max = max(w.P50, p.P50), max(w.P99, p.P99), max(w.Max, p.Max)
		w.Missed, w.Late = w.Missed+p.Missed, w.Late || p.Late
		if all := (total.Duration + t.Duration).Seconds(); all > 0 {
			w.KeptRate = kept / all
		}
	}
	for _, e := range t.Errors {
		i := slices.IndexFunc(total.Errors, func(known report.ErrorCount) bool { return known.Message == e.Message })
		if i < 0 {
			total.Errors = append(total.Errors, e)
		} else {
			total.Errors[i].Count += e.Count
		}
	}
	total.Duration += t.Duration
}

func (s *totals) merge(l *report.Latency) error {
	h, err := l.Histogram()
	if err != nil {
		return err
	}
	if s.latencies == nil {
		s.latencies = map[latencyKey]*hdrhistogram.Histogram{}
	}
	key := latencyKey{l.Op, l.Route, l.Outcome, l.ServiceTime}
	if s.latencies[key] == nil {
		s.latencies[key] = h
		return nil
	}
	if dropped := s.latencies[key].Merge(h); dropped > 0 {
		return fmt.Errorf("merge the latencies of two rounds: %d values out of range", dropped)
	}
	return nil
}

// record adds what happened to the cluster in a turn.
func (s *totals) record(r *local.Record) {
	begin := s.total.Duration
	for _, m := range r.Marks {
		what := m.Text
		if m.EffectiveAt > 0 {
			what += fmt.Sprintf(", in effect after %s", (m.EffectiveAt - m.At).Round(time.Millisecond))
		}
		if m.Problem != "" {
			what += ": " + m.Problem
		}
		s.total.Marks = append(s.total.Marks, report.Mark{At: begin + max(m.At, 0), Kind: string(m.Kind), Detail: what})
	}
	s.samples = addSamples(s.samples, begin, r.Bench.Samples)
	for _, n := range r.Nodes {
		i := slices.IndexFunc(s.servers, func(p report.Process) bool { return p.Name == n.Name })
		if i < 0 {
			i = len(s.servers)
			s.servers = append(s.servers, report.Process{Name: n.Name})
		}
		p := &s.servers[i]
		p.Samples = addSamples(p.Samples, begin, n.Samples)
		p.CPU += n.CPU
		p.PeakRSS = max(p.PeakRSS, n.PeakRSS)
	}
}

// addSamples adds the samples of a turn that began at begin.
func addSamples(list []report.Sample, begin time.Duration, samples []local.Sample) []report.Sample {
	var before time.Duration
	if last := len(list) - 1; last >= 0 {
		before = list[last].CPU
	}
	for _, sample := range samples {
		at := begin + max(sample.At, 0)
		if last := len(list) - 1; last >= 0 {
			at = max(at, list[last].At)
		}
		list = append(list, report.Sample{At: at, CPU: before + max(sample.CPU, 0), RSS: sample.RSS})
	}
	return list
}

// report returns the target's part of the document.
func (s *measuredTarget) report(r *runner) (*report.Target, error) {
	t := s.totals.total
	t.Name, t.Description, t.Audit = s.name, s.description, s.auditResult(r)
	t.CallsModel = CallsModels(s.kind + ":")
	t.Overload = s.overload
	t.Resources = &report.Resources{
		Client:  report.Process{Name: "bench", CPU: s.totals.client, Samples: s.totals.samples},
		Servers: s.totals.servers,
	}
	t.Resources.PerMillion(t.Completed)
	slices.SortStableFunc(t.Errors, func(a, b report.ErrorCount) int { return cmp.Compare(b.Count, a.Count) })
	var rows []latencyKey
	for of := range s.totals.latencies {
		rows = append(rows, of)
	}
	slices.SortFunc(rows, func(a, b latencyKey) int {
		return cmp.Or(cmp.Compare(a.op, b.op), cmp.Compare(a.route, b.route), cmp.Compare(a.outcome, b.outcome), compareBool(a.service, b.service))
	})
	for _, of := range rows {
		l, err := report.NewLatency(of.op, of.route, of.outcome, s.totals.latencies[of])
		if err != nil {
			return nil, err
		}
		l.ServiceTime = of.service
		t.Latencies = append(t.Latencies, l)
	}
	return &t, nil
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
