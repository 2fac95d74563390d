// SPDX-License-Identifier: Apache-2.0

package report

import (
	"strings"
	"testing"
	"time"
)

func TestHarnessIsHonest(t *testing.T) {
	quiet := Harness{MaxRate: 300_000, AddedP50: 60 * time.Microsecond, AddedP99: 200 * time.Microsecond, Others: 0.02}
	for name, c := range map[string]struct {
		change func(*Harness)
		want   string
	}{
		"quiet":    {func(*Harness) {}, "keeps a schedule of up to 300,000 calls/s, and adds 60.0 µs (p50), 200 µs (p99) to a latency"},
		"busy":     {func(h *Harness) { h.Others = 0.35 }, "; other programs used 35 % of the processors meanwhile: this says more of them than of the bench"},
		"slow":     {func(h *Harness) { h.AddedP99 = 3 * time.Millisecond }, "; that is much: something on this machine got in its way"},
		"hopeless": {func(h *Harness) { h.MaxRate = 0 }, "keeps no schedule at all here, not even of 1,000 calls/s, and adds"},
	} {
		h := quiet
		c.change(&h)
		if got := h.Words(); !strings.Contains(got, c.want) || name == "quiet" && got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestHarnessIsValidated(t *testing.T) {
	for want, change := range map[string]func(*Harness){
		"harness.max_rate_per_second": func(h *Harness) { h.MaxRate = -1 },
		"harness.others":              func(h *Harness) { h.Others = 2 },
		"harness: -1":                 func(h *Harness) { h.AddedP99 = -1 },
	} {
		r := faultRun(t)
		change(r.Harness)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, want %s", err, want)
		}
	}
}
