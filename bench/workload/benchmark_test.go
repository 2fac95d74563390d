// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"testing"

	"github.com/bucketring/bucketring/bench"
)

func BenchmarkNext(b *testing.B) {
	for _, bb := range []struct{ name, spec string }{
		{"hot", "keys=hot:acme/alice tokens=fixed:900+100"},
		{"uniform_10k", "keys=uniform:10k tokens=fixed:900+100"},
		{"uniform_1M", "keys=uniform:1M tokens=fixed:900+100"},
		{"zipf_100k", "keys=zipf:1.1x100k tokens=fixed:900+100"},
		{"zipf_10M", "keys=zipf:1.1x10M tokens=fixed:900+100"},
		{"zipf_at_1", "keys=zipf:1x1M tokens=fixed:900+100"},
		{"mixture", "keys=hot:90%:acme+uniform:10k tokens=fixed:900+100"},
		{"all", "keys=zipf:1.1x100k tokens=chat tiers=free=70,standard=25,enterprise=5 models=a=4,b=1 llm=30% retries=1%+100"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			w := mustNew(b, bb.spec)
			var c bench.Call
			b.ReportAllocs()
			for b.Loop() {
				w.Next(&c)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for _, spec := range []string{"keys=uniform:1M tokens=chat", "keys=orgs:1kx1k tokens=chat", "replay=10x"} {
		b.Run(spec, func(b *testing.B) {
			s, err := Parse(spec)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := New(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
