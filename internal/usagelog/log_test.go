// SPDX-License-Identifier: Apache-2.0

package usagelog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
)

// testLog is a log in a directory of its own.
type testLog struct {
	*Log
	t    *testing.T
	path string
	said *bytes.Buffer

	registry *prometheus.Registry
}

func open(t *testing.T, edit func(*Options)) *testLog {
	t.Helper()
	said, registry := &bytes.Buffer{}, prometheus.NewRegistry()
	o := Options{
		Path: filepath.Join(t.TempDir(), "usage.jsonl"), Node: "n1", Metrics: NewMetrics(registry),
		Logger: slog.New(slog.NewTextHandler(said, nil)),
	}
	if edit != nil {
		edit(&o)
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.file.close() })
	return &testLog{l, t, o.Path, said, registry}
}

// read returns the lines of the file, which must be whole.
func (l *testLog) read(path string) (lines []string) {
	l.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if !json.Valid([]byte(line)) || !strings.HasSuffix(line, "\n") {
			l.t.Errorf("%s has %q, want a whole line of JSON", path, line)
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	return lines
}

// metric returns the sum of the values with that name and, unless it is empty, that label.
func (l *testLog) metric(name, label string) (sum float64) {
	l.t.Helper()
	families, err := l.registry.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "bucketring_usage_log_"+name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func charge(id string) *limiter.Charged {
	return &limiter.Charged{
		Key: []byte("acme/alice"), ID: []byte(id), Tier: "free", Status: limiter.Settled, Requests: 1, Input: 900, Output: 312, Tokens: 1212,
		At: time.Date(2026, 11, 29, 3, 4, 5, 60, time.UTC).UnixNano(),
	}
}

func TestLines(t *testing.T) {
	l := open(t, nil)
	c := charge("id1")
	c.Model, c.PolicyVersion, c.Spend, c.Priced = []byte("llama-3-70b"), 0xabc, 1_000_234, true
	c.ReservedAt = c.At - int64(time.Second)
	c.Cached, c.CacheWrite, c.CacheWrite1h, c.Images, c.Searches = 1, 2, 3, 4, 5
	c.ServiceTier, c.Costs = []byte("flex"), []limiter.ChargedCost{{Dimension: []byte("gpu"), Amount: 6}, {Dimension: []byte("pages"), Amount: 7}}
	l.Charged(c)
	c = charge("id\"2\x7f")
	c.Status, c.Late, c.Rejected, c.Key, c.Priced = limiter.Expired, true, true, []byte("globex"), true
	l.Charged(c)
	c = charge("id3")
	c.Status = limiter.NoStatus
	l.Charged(c)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"settled_at":"2026-11-29T03:04:05.000000060Z","node":"n1","outcome":"settled","root":"acme","key":"acme/alice","request_id":"id1","tier":"free","model":"llama-3-70b","service_tier":"flex","reserved_at":"2026-11-29T03:04:04.000000060Z","requests":1,"input_tokens":900,"cached_input_tokens":1,"cache_write_tokens":2,"cache_write_1h_tokens":3,"output_tokens":312,"tokens":1212,"images":4,"searches":5,"dollars":"1.000234","costs":{"gpu":6,"pages":7},"policy_version":"0000000000000abc"}`,
		`{"settled_at":"2026-11-29T03:04:05.000000060Z","node":"n1","outcome":"expired","late":true,"root":"globex","key":"globex","request_id":"id\"2` + "\x7f" + `","tier":"free","rejected":true,"requests":1,"input_tokens":900,"output_tokens":312,"tokens":1212,"dollars":"0.000000","policy_version":"0000000000000000"}`,
		`{"settled_at":"2026-11-29T03:04:05.000000060Z","node":"n1","outcome":"checked","root":"acme","key":"acme/alice","request_id":"id3","tier":"free","requests":1,"input_tokens":900,"output_tokens":312,"tokens":1212,"policy_version":"0000000000000000"}`,
	}
	if diff := cmp.Diff(want, l.read(l.path)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(l.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file = %v, %v, want 0600", info.Mode(), err)
	}
}

// TestConcurrent: every charge is written once, while the file is rotated and moved, and
// those of one partition in their order.
func TestConcurrent(t *testing.T) {
	const writers, each = 8, 2000
	l := open(t, func(o *Options) { o.MaxSize = 256 << 10 })
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = l.Run(ctx) }()
	moved := filepath.Join(filepath.Dir(l.path), "moved")
	var calls sync.WaitGroup
	for w := range writers {
		calls.Go(func() {
			for i := range each {
				c := charge(fmt.Sprintf("%d-%d", w, i))
				c.Partition = w
				l.Charged(c)
				if w == 0 && i == each/2 {
					_ = os.Rename(l.path, moved) // as logrotate does
				}
			}
		})
	}
	calls.Wait()
	stop()
	<-ended
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(l.path), "*"))
	seen := map[string]int{}
	for _, path := range files {
		last := map[string]int{}
		for _, line := range l.read(path) {
			var got struct {
				ID string `json:"request_id"`
			}
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Fatal(err)
			}
			seen[got.ID]++
			w, i, _ := strings.Cut(got.ID, "-")
			n := 0
			_, _ = fmt.Sscan(i, &n)
			if n < last[w] {
				t.Errorf("%s has charge %s of partition %s after %d", path, i, w, last[w])
			}
			last[w] = n
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("charge %s was written %d times, want 1", id, n)
		}
	}
	if len(seen) != writers*each || len(files) < 4 {
		t.Errorf("%d charges in %d files, want %d in 4 or more", len(seen), len(files), writers*each)
	}
}

func TestRotatedFilesAreKept(t *testing.T) {
	l := open(t, func(o *Options) { o.MaxSize, o.Keep = 1000, 2 })
	other := filepath.Join(filepath.Dir(l.path), "usage-of-somebody-else.jsonl")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		l.Charged(charge(fmt.Sprint(i)))
		l.write()
	}
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(l.path), "usage*"))
	if len(files) != 4 { // the current one, two that were renamed, and other
		t.Errorf("files = %q, want 4", files)
	}
	for _, path := range files {
		if info, err := os.Stat(path); err != nil || info.Size() > 1000 {
			t.Errorf("size of %s = %v, %v, want at most 1000", path, info.Size(), err)
		}
	}
}

// TestTrouble: while the file cannot be written, nothing waits, and what fits into the queue
// is written afterwards.
func TestTrouble(t *testing.T) {
	l := open(t, nil)
	l.Charged(charge("before"))
	l.write()
	healthy := l.file.open
	broken, err := os.Open(l.path) // cannot be written
	if err != nil {
		t.Fatal(err)
	}
	l.file.open = broken
	l.Charged(charge("during"))
	l.write()
	s := l.Status()
	if s.Problem == "" || s.Lost != 0 || l.metric("failing", "") != 1 || l.metric("errors_total", "") == 0 {
		t.Errorf("status with a file that cannot be written = %+v, want a problem and no loss", s)
	}
	for i := range maxQueued + 5 {
		l.Charged(charge(fmt.Sprint(i)))
	}
	l.write()
	if s := l.Status(); s.Lost != 5 || s.Queued != maxQueued || l.metric("lost_total", "queue_full") != 5 {
		t.Errorf("status with a full queue = %+v, want 5 lost", s)
	}
	if n := strings.Count(l.said.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log, want 1:\n%s", n, l.said)
	}
	l.file.open = healthy
	_ = broken.Close()
	l.write()
	if s := l.Status(); s.Problem != "" || s.Queued != 0 || l.metric("failing", "") != 0 {
		t.Errorf("status after the trouble = %+v, want no problem", s)
	}
	if n := len(l.read(l.path)); n != maxQueued+2 {
		t.Errorf("%d lines, want %d", n, maxQueued+2)
	}
	if !strings.Contains(l.said.String(), "lost_since_start=5") {
		t.Errorf("the log does not say that charges were lost:\n%s", l.said)
	}
	l.file.open = nil
	l.file.path = filepath.Join(l.path, "no directory")
	l.Charged(charge("after"))
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "1 charges") || l.metric("lost_total", "shutdown") != 1 {
		t.Errorf("Close() of a file that cannot be written = %v, want that a charge is lost", err)
	}
}

func TestUnknownCall(t *testing.T) {
	l := open(t, nil)
	l.Charged(&limiter.Charged{Status: limiter.Expired})
	l.write()
	if s := l.Status(); s.Lost != 1 || s.Lines != 0 {
		t.Errorf("status = %+v, want a charge that is lost", s)
	}
}

// TestTornLine: a line that was torn when the machine lost its power does not spoil the next.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	if err := os.WriteFile(path, []byte("{\"torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, func(o *Options) { o.Path = path })
	l.Charged(charge("next"))
	l.write()
	data, _ := os.ReadFile(path)
	if lines := strings.Split(string(data), "\n"); len(lines) != 3 || lines[0] != `{"torn` || !json.Valid([]byte(lines[1])) {
		t.Errorf("file = %q, want the line alone", data)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "no", "file"), os.DevNull} {
		if _, err := Open(Options{Path: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s) = %v, want an error that names it", path, err)
		}
	}
}

func TestChargedDoesNotAllocate(t *testing.T) {
	l := open(t, nil)
	c := charge("id")
	for range maxQueued - 1 {
		l.Charged(c) // grows the memory of a queue
	}
	l.queues[0].batch.reset()
	if n := testing.AllocsPerRun(1000, func() { l.Charged(c) }); n != 0 {
		t.Errorf("Charged() = %v allocations, want 0", n)
	}
}

// TestRunWrites: charges are in the file without any other call.
func TestRunWrites(t *testing.T) {
	l := open(t, nil)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = l.Run(ctx) }()
	l.Charged(charge("id"))
	waittest.Until(t, "a line", func() bool { return len(l.read(l.path)) == 1 })
	stop()
	<-ended
}

func BenchmarkCharged(b *testing.B) {
	l := &Log{metrics: NewMetrics(prometheus.NewRegistry())}
	for i := range l.queues {
		l.queues[i].batch = new(batch)
	}
	c := charge("0123456789abcdef0123456789abcdef")
	for i := range b.N {
		if i%maxQueued == 0 {
			l.queues[0].batch.reset()
		}
		l.Charged(c)
	}
}
