// SPDX-License-Identifier: Apache-2.0

package tlsfiles

import (
	"crypto/x509"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Status is what is in use, for operators.
type Status struct {
	Name    string    `json:"name"` // what the files are for
	Names   []string  `json:"names,omitempty"`
	Issuer  string    `json:"issuer,omitempty"`
	Expires time.Time `json:"expires,omitzero"` // of the certificate
	// CAs are the authorities that verify the other side.
	CAs []CAStatus `json:"cas,omitempty"`
	// LoadedAt is when what is in use was read.
	LoadedAt time.Time `json:"loaded_at"`
	// Problem says why the latest files are not in use. Empty: they are.
	Problem string `json:"problem,omitempty"`
}

// CAStatus is one authority.
type CAStatus struct {
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"`
}

// Status looks at the files and returns what is in use.
func (s *Store) Status() Status {
	m := s.load()
	s.mu.Lock()
	problem := s.mu.problem
	s.mu.Unlock()
	status := Status{Name: s.options.Name, Names: names(m), Expires: expiry(m), LoadedAt: m.loaded.UTC(), Problem: problem}
	if m.cert != nil {
		status.Issuer = m.cert.Leaf.Issuer.String()
	}
	for _, c := range m.cas {
		status.CAs = append(status.CAs, CAStatus{c.Subject.String(), c.NotAfter.UTC()})
	}
	return status
}

// collector exports the state of stores.
type collector struct {
	stores                      []*Store
	expiry, ca, success, reload *prometheus.Desc
}

// NewCollector returns a collector for stores.
func NewCollector(stores ...*Store) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bucketring_tls_"+name, help, append([]string{"files"}, labels...), nil)
	}
	return &collector{
		stores:  stores,
		expiry:  desc("certificate_expiry_timestamp_seconds", "When the certificate in use expires, in Unix seconds."),
		ca:      desc("ca_expiry_timestamp_seconds", "When the first of the CA certificates in use expires, in Unix seconds."),
		success: desc("last_reload_successful", "1 if the files as they are now are in use, 0 if they cannot be used and the previous ones stay."),
		reload:  desc("reloads_total", "Times that changed certificates were read, by result.", "result"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.expiry, c.ca, c.success, c.reload} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It looks at the files, so that a problem shows
// without a handshake.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.stores {
		m, name := s.load(), s.options.Name
		s.mu.Lock()
		good, reloads, failed := s.mu.problem == "", s.mu.reloads, s.mu.failed
		s.mu.Unlock()
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, name)
		}
		if m.cert != nil {
			gauge(c.expiry, float64(m.cert.Leaf.NotAfter.Unix()))
		}
		if first := firstToExpire(m.cas); first != nil {
			gauge(c.ca, float64(first.NotAfter.Unix()))
		}
		value := 0.0
		if good {
			value = 1
		}
		gauge(c.success, value)
		ch <- prometheus.MustNewConstMetric(c.reload, prometheus.CounterValue, float64(reloads), name, "success")
		ch <- prometheus.MustNewConstMetric(c.reload, prometheus.CounterValue, float64(failed), name, "failure")
	}
}

func firstToExpire(list []*x509.Certificate) (first *x509.Certificate) {
	for _, c := range list {
		if first == nil || c.NotAfter.Before(first.NotAfter) {
			first = c
		}
	}
	return first
}
