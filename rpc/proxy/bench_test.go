// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/rpc/proxy"
)

var costs = flag.Bool("costs", false, "print the latency that the proxy adds: go test ./rpc/proxy -run TestCosts -costs -v")

// TestCosts prints the latency that the proxy adds to the first byte, between two
// pieces and to the whole response, each compared with a direct call to the
// upstream. It asserts nothing.
func TestCosts(t *testing.T) {
	if !*costs {
		t.Skip("a measurement: run it with -costs")
	}
	s := start(t, setup{mock: mockllm.Options{Speed: 200, TTFT: 5 * time.Millisecond}, edit: func(o *proxy.Options) { o.Middleware.OnDone = nil }})
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tdirect p50\tproxied p50\tadded p50\tdirect p99\tproxied p99\t")
	row := func(what string, n int, measure func(url string) []time.Duration) {
		var took [2][]time.Duration
		for range n {
			for i, url := range []string{s.direct, s.url} {
				took[i] = append(took[i], measure(url)...)
			}
		}
		at := func(i int, share float64) time.Duration {
			slices.Sort(took[i])
			return took[i][int(share*float64(len(took[i])-1))].Round(time.Microsecond)
		}
		fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%v\t%v\t\n", what, at(0, .5), at(1, .5), at(1, .5)-at(0, .5), at(0, .99), at(1, .99))
	}
	whole := func(url string) []time.Duration {
		began := time.Now()
		ask(t, url, hello, "X-Mock-Output-Tokens", "8", "X-Mock-Speed", "0", "X-Mock-TTFT", "0ms", func(r io.Reader) { _, _ = io.Copy(io.Discard, r) })
		return []time.Duration{time.Since(began)}
	}
	for range 100 {
		whole(s.direct)
		whole(s.url)
	}
	row("whole answer, not streamed", 2000, whole)
	stream := strings.Replace(hello, "50", `50,"stream":true`, 1)
	row("first byte of a stream", 200, func(url string) []time.Duration {
		began := time.Now()
		var first time.Duration
		ask(t, url, stream, "X-Mock-Output-Tokens", "2", "X-Mock-Speed", "0", "X-Mock-TTFT", "5ms", func(r io.Reader) {
			_, _ = r.Read(make([]byte, 1))
			first = time.Since(began)
			_, _ = io.Copy(io.Discard, r)
		})
		return []time.Duration{first}
	})
	row("between two pieces, 200/s", 20, func(url string) (gaps []time.Duration) {
		ask(t, url, stream, "X-Mock-Output-Tokens", "50", "X-Mock-Speed", "200", "X-Mock-TTFT", "0ms", func(r io.Reader) {
			lines, last := bufio.NewScanner(r), time.Time{}
			for lines.Scan() {
				if !strings.Contains(lines.Text(), `"content"`) {
					continue
				}
				if now := time.Now(); last.IsZero() {
					last = now
				} else {
					gaps = append(gaps, now.Sub(last))
					last = now
				}
			}
		})
		return gaps
	})
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
}

func ask(t testing.TB, url, body, h1, v1, h2, v2, h3, v3 string, read func(io.Reader)) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer sk-std")
	for _, h := range [][2]string{{h1, v1}, {h2, v2}, {h3, v3}} {
		r.Header.Set(h[0], h[1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("answer = %d", answer.StatusCode)
	}
	read(answer.Body)
}

// benchCall measures a call, direct and proxied, with a caller for each processor.
func benchCall(b *testing.B, body, tokens string) {
	s := start(b, setup{edit: func(o *proxy.Options) { o.Middleware.OnDone = nil }})
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 64
	for name, url := range map[string]string{"direct": s.direct, "proxied": s.url} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					ask(b, url, body, "X-Mock-Output-Tokens", tokens, "X-Mock-Speed", "0", "X-Mock-TTFT", "0ms", func(r io.Reader) { _, _ = io.Copy(io.Discard, r) })
				}
			})
		})
	}
}

func BenchmarkAnswer(b *testing.B) { benchCall(b, hello, "8") }

func BenchmarkStream(b *testing.B) {
	benchCall(b, strings.Replace(hello, "50", `500,"stream":true`, 1), "200")
}
