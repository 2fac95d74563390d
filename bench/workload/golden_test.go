// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldens are specs whose first calls must never change, so that published runs can
// be repeated. Change a recording only if you know why, and note it in the
// changelog.
var goldens = []struct{ name, spec string }{
	{"default", ""},
	{"uniform", "keys=uniform:1M tokens=uniform:100-2000+50-400 tiers=free=70,standard=25,enterprise=5 seed=42"},
	{"zipf", "keys=zipf:1.1x100k tokens=fixed:900+100 prefix=r7- seed=42"},
	{"zipf_at_1", "keys=zipf:1x1M tokens=fixed:900+100 seed=42"},
	{"zipf_below_1", "keys=zipf:0.8x1M tokens=fixed:900+100 seed=42"},
	{"hot", "keys=hot:acme/alice tiers=enterprise models=small=4,large=1 seed=42"},
	{"mixture", "keys=hot:70%:acme+zipf:10%:1.2x1k+uniform:10k tokens=fixed:10+0 tiers=free=1,standard=1 seed=42"},
	{"orgs", "keys=orgs:100x1000 tokens=fixed:900+100 seed=42"},
	{"tree", "keys=orgs:12x3x40x2 tokens=fixed:900+100 seed=42"},
	{"llm", "keys=uniform:100 llm=30% seed=42"},
	{"llm_fixed", "keys=uniform:100 llm=100%:ttft=300ms,speed=50,reports=4,max=256 seed=42"},
	{"retries", "keys=uniform:100 tokens=fixed:1+1 llm=50%:max=exact retries=30%+2 ids=x seed=42"},
	{"replay", "replay=100x retries=20% seed=42"},
	{"replay_checks", "replay=2.5x:users=60,orgs=5 llm=0% tiers=free seed=42"},
}

func TestGolden(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			w := mustNew(t, g.spec)
			var b strings.Builder
			fmt.Fprintf(&b, "%s\n\n%s\n", w.spec, w.Describe())
			times := w.Times()
			for i, c := range plan(w, 12) {
				if times != nil {
					fmt.Fprintf(&b, "%-13s ", times[i])
				}
				fmt.Fprintf(&b, "%s %s tier=%q model=%q %d+%d", c.ID, c.Key, c.Tier, c.Model, c.InputTokens, c.OutputTokens)
				if c.LLM {
					fmt.Fprintf(&b, " of %d, holds %s with %d reports", c.MaxOutputTokens, c.Duration, c.ProgressReports)
				}
				b.WriteByte('\n')
			}
			path := filepath.Join("testdata", g.name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("the first calls of %q (-want +got):\n%s", g.spec, diff)
			}
		})
	}
}
