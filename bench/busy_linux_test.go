// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"testing"
	"time"
)

func TestReadCPU(t *testing.T) {
	for line, want := range map[string]cpuUsage{
		"cpu  100 1 20 500 30 4 5 6 50 1\n":    {busy: 1360 * time.Millisecond, total: 6660 * time.Millisecond},
		"cpu0 100 1 20 500 30 4 5 6 50 1\n":    {},
		"cpu  100 1 20\n":                      {},
		"cpu  100 1 twenty 500 30 4 5 6 0 0\n": {},
		"":                                     {},
	} {
		if got := parseCPUUsage(line); got != want {
			t.Errorf("readCPU(%q) = %+v, want %+v", line, got, want)
		}
	}
	if u := readCPUUsage(); u.total <= 0 || u.busy > u.total || u.own <= 0 {
		t.Errorf("usage of this machine: %+v, want CPU time", u)
	}
}
