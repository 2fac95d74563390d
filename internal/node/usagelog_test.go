// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
)

// usageLine is what a biller reads of a line.
type usageLine struct {
	SettledAt string `json:"settled_at"`
	Node      string `json:"node"`
	Outcome   string `json:"outcome"`
	Root      string `json:"root"`
	Key       string `json:"key"`
	ID        string `json:"request_id"`
	Model     string `json:"model"`
	Dollars   string `json:"dollars"`
}

// micros returns the dollars of a line in microdollars.
func (l *usageLine) micros(t *testing.T) int64 {
	t.Helper()
	whole, part, ok := strings.Cut(l.Dollars, ".")
	n, err := strconv.ParseInt(whole+part, 10, 64)
	if !ok || len(part) != 6 || err != nil {
		t.Fatalf("dollars = %q, want six decimal places", l.Dollars)
	}
	return n
}

// readUsage returns the line of each call that counts, by the rule of docs/usage-log.md: of
// lines with the same root and request id, the one with the latest time.
func readUsage(t *testing.T, paths ...string) (lines map[string]usageLine, all int) {
	t.Helper()
	lines = map[string]usageLine{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for text := range strings.Lines(string(data)) {
			var l usageLine
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				t.Fatalf("%s: %v in %q", path, err, text)
			}
			all++
			if id := l.Root + " " + l.ID; lines[id].SettledAt <= l.SettledAt {
				lines[id] = l
			}
		}
	}
	return lines, all
}

const billedPolicy = `
tiers:
  t:
    requests: 1_000_000/min
    # A busy machine that is fenced for a moment decides in fallback, and replays.
    limits: [{ name: spend, dimension: spend, limit: $1_000_000, window: month, unreachable: open }]
default_tier: t
prices:
  m: { input: 3.00, cached_input: 1.00, output: 5.00 }
  "*": { input: 1.00, output: 2.00 }
`

// post posts a call, which must be answered with 200, and returns the answer.
func (r *running) post(path, format string, args ...any) (answer map[string]any) {
	r.t.Helper()
	body := fmt.Sprintf(format, args...)
	resp, err := http.Post("http://"+r.HTTPAddr()+path, "", strings.NewReader(body))
	if err != nil {
		r.t.Error(err)
		return nil
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		r.t.Errorf("%s %s = %d %v %v, want 200", path, body, resp.StatusCode, answer, err)
	}
	return answer
}

// spent returns what a key has used of its budget, in microdollars.
func (r *running) spent(key string) int64 {
	r.t.Helper()
	_, text := r.get("/v1/limits?key=" + key)
	var answer struct {
		Limits []struct {
			Name             string
			Limit, Remaining int64
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		r.t.Fatalf("%v in %s", err, text)
	}
	for _, l := range answer.Limits {
		if l.Name == "spend" {
			return l.Limit - l.Remaining
		}
	}
	r.t.Fatalf("%s has no budget: %s", key, text)
	return 0
}

// TestUsageLogIsTheTruth: the dollars in the logs of all members are what the owners say that
// each key has spent, whoever was asked, and after owners have moved while calls ran.
func TestUsageLogIsTheTruth(t *testing.T) {
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(billedPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	var paths []string
	edit := func(c *config.Config) {
		c.Policy, c.UsageLog = policy, filepath.Join(dir, c.Name+".jsonl")
		paths = append(paths, c.UsageLog)
	}
	nodes := startCluster(t, 2, func(_ int, c *config.Config) { edit(c) })

	const workers, keys, calls = 4, 12, 40
	work := func(name string, entry *running) (open []string) {
		var mu sync.Mutex
		var done sync.WaitGroup
		for w := range workers {
			done.Go(func() {
				random := rand.New(rand.NewPCG(uint64(w), 1))
				for i := range calls {
					key := fmt.Sprintf("root%d/user", random.IntN(keys))
					id := fmt.Sprintf("%s-%d-%d", name, w, i)
					input, output := random.IntN(3000), random.IntN(500)
					if i%4 == 0 {
						entry.post("/v1/check", `{"key":%q,"model":"m","input_tokens":%d,"output_tokens":%d,"request_id":%q}`, key, input, output, id)
						continue
					}
					entry.post("/v1/reserve", `{"key":%q,"model":"m","input_tokens":%d,"max_output_tokens":600,"ttl_seconds":3600,"request_id":%q}`, key, input, id)
					switch settle := fmt.Sprintf(`{"key":%q,"request_id":%q,"input_tokens":%d,"cached_input_tokens":%d,"output_tokens":%d}`, key, id, input, input/2, output); i % 4 {
					case 1:
						entry.post("/v1/settle", "%s", settle)
						entry.post("/v1/settle", "%s", settle) // a retry
					case 2:
						entry.post("/v1/cancel", `{"key":%q,"request_id":%q}`, key, id)
					default:
						mu.Lock()
						open = append(open, settle)
						mu.Unlock()
					}
				}
			})
		}
		done.Wait()
		return open
	}
	open := work("before", nodes[0])

	// A third member takes over a third of the keys, with their running calls.
	third := start(t, func(c *config.Config) {
		c.Name, c.Join = "n3", []string{nodes[0].GossipAddr()}
		edit(c)
	})
	nodes = append(nodes, third)
	open = append(open, work("during", nodes[1])...)
	agree(t, nodes...)
	for _, settle := range open {
		third.post("/v1/settle", "%s", settle)
	}
	open = work("after", third)
	for _, settle := range open {
		nodes[0].post("/v1/settle", "%s", settle)
	}

	const charged = 3 * workers * calls * 3 / 4 // all but those that were cancelled
	want, got, writers := map[string]int64{}, map[string]int64{}, map[string]int{}
	wrong := func() string {
		for _, n := range nodes {
			if pending := n.router.Status().Outbox; pending > 0 {
				return fmt.Sprintf("%s has still %d calls to replay", n.Name(), pending)
			}
		}
		lines, _ := readUsage(t, paths...)
		clear(got)
		calls := 0
		for id, l := range lines {
			if l.Outcome == "cancelled" {
				continue
			}
			calls++
			got[l.Key] += l.micros(t)
			writers[l.Node]++
			if l.Model != "m" {
				return fmt.Sprintf("the model of %s is %q, want m, whichever member it was reserved at", id, l.Model)
			}
		}
		for i := range keys {
			key := fmt.Sprintf("root%d/user", i)
			if want[key] = nodes[i%3].spent(key); got[key] != want[key] || want[key] == 0 {
				return fmt.Sprintf("the usage logs have %d microdollars of %s, want %d, which its owner says", got[key], key, want[key])
			}
		}
		if calls != charged {
			return fmt.Sprintf("%d calls in the usage logs, want %d", calls, charged)
		}
		return ""
	}
	problem := ""
	for end := time.Now().Add(waittest.Limit); ; time.Sleep(50 * time.Millisecond) {
		if problem = wrong(); problem == "" || time.Now().After(end) {
			break
		}
	}
	if problem != "" {
		t.Error(problem)
	}
	if len(writers) != 3 {
		t.Errorf("lines by %v, want some of three owners", writers)
	}
	for _, n := range nodes {
		if s := n.Status().UsageLog; s == nil || s.Lost != 0 || s.Problem != "" {
			t.Errorf("usage log of %s = %+v, want no loss", n.Name(), s)
		}
	}
}

// TestUsageLogAtShutdown: what was charged last is in the file when the node has ended.
func TestUsageLogAtShutdown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	r := start(t, func(c *config.Config) { c.UsageLog = path })
	r.check(10)
	if err := r.ended(); err != nil {
		t.Fatal(err)
	}
	if lines, _ := readUsage(t, path); len(lines) != 1 {
		t.Errorf("lines = %v, want 1", lines)
	}
}

func TestUsageLogThatCannotBeOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no", "usage.jsonl")
	_, err := New(Options{Config: testConfig(func(c *config.Config) { c.UsageLog = path })})
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("New() = %v, want an error that names %s", err, path)
	}
}
