// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
)

// most is the most resident memory of a node with a million keys and as many ids, in bytes.
const most = 450_000_000

// process is a node in a process of its own.
type process struct {
	*local.Process
	http, grpc string
}

// startProcess starts a node with the defaults of everything but its addresses and its policy.
func startProcess(t *testing.T) *process {
	t.Helper()
	p := &process{http: freeport.Test(t), grpc: freeport.Test(t)}
	gossip, policy, log := freeport.Test(t), writeRules(t), filepath.Join(t.TempDir(), "log")
	path, args := os.Args[0], []string{asNode, p.http, p.grpc, gossip, policy}
	if *binaryPath != "" {
		path, args = *binaryPath, []string{"serve", "--name", "n1", "--http", p.http, "--grpc", p.grpc, "--gossip", gossip, "--policy", policy}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	p.Process, err = local.StartProcess(log, path, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(waittest.Limit) })
	waittest.Until(t, "the node to be ready", func() bool {
		if err := p.Err(); err != nil {
			t.Fatal(err)
		}
		response, err := http.Get("http://" + p.http + "/readyz")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return p
}

// number returns the number in the first group of a pattern in a text.
func number(t *testing.T, text, pattern string) int64 {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("no %q in:\n%s", pattern, text)
	}
	n, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return int64(n)
}

// get reads a page of the node.
func (p *process) get(t *testing.T, path string) string {
	t.Helper()
	response, err := http.Get("http://" + p.http + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s = %s, %v", path, response.Status, err)
	}
	return string(text)
}

// size is what a node holds and takes.
type size struct {
	keys, ids, reservations int64
	heap, rss, peak         int64 // bytes
}

func (p *process) size(t *testing.T) size {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Skipf("resident memory is read from /proc: %v", err)
	}
	metrics := p.get(t, "/metrics")
	s := size{
		keys: number(t, metrics, `(?m)^bucketring_keys (\S+)`), ids: number(t, metrics, `(?m)^bucketring_remembered_ids (\S+)`),
		reservations: number(t, metrics, `(?m)^bucketring_reservations (\S+)`),
		rss:          number(t, string(status), `VmRSS:\s+(\d+) kB`) << 10,
		peak:         number(t, string(status), `VmHWM:\s+(\d+) kB`) << 10,
	}
	// Last, since it collects garbage.
	s.heap = number(t, p.get(t, "/debug/pprof/heap?gc=1&debug=1"), `# HeapAlloc = (\d+)`)
	return s
}

// TestTable measures whole nodes and compares them with the goal. It takes some minutes.
func TestTable(t *testing.T) {
	if !*full {
		t.Skip("it takes some minutes and needs -full: run make sizing")
	}
	var b strings.Builder
	b.WriteString("| keys | remembered ids | of them reservations | live heap | resident | at its peak |\n|---:|---:|---:|---:|---:|---:|\n")
	megabytes := func(n int64) string { return strconv.FormatInt((n+500_000)/1_000_000, 10) + " MB" }
	row := func(p *process) size {
		s := p.size(t)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", amount.Group(s.keys), amount.Group(s.ids), amount.Group(s.reservations), megabytes(s.heap), megabytes(s.rss), megabytes(s.peak))
		t.Logf("%+v", s)
		return s
	}
	p := startProcess(t)
	row(p)
	load(t, p.grpc, keysIn(limiter.Partitions, 100_000), check)
	row(p)
	p.Stop(waittest.Limit)

	p = startProcess(t)
	keys := keysIn(limiter.Partitions, 1_000_000)
	load(t, p.grpc, keys, check)
	filled := row(p)
	if *binaryPath != "" { // its clock runs
		for end := time.Now().Add(3 * time.Minute); number(t, p.get(t, "/metrics"), `(?m)^bucketring_remembered_ids (\S+)`) > 0; time.Sleep(time.Second) {
			if time.Now().After(end) {
				t.Fatal("the ids of checks are still remembered after 3 minutes")
			}
		}
		row(p)
	}
	p.Stop(waittest.Limit)

	p = startProcess(t)
	load(t, p.grpc, keys, reserve)
	row(p)

	if filled.keys < 990_000 {
		t.Errorf("the node has %d keys, want a million", filled.keys)
	}
	if filled.ids < 900_000 {
		t.Errorf("the node remembers %d ids, want a million: with -binary, the machine is too busy for as many calls in 30 s", filled.ids)
	}
	if filled.peak > most {
		t.Errorf("%s resident at the peak for a million keys and ids, want at most %s", megabytes(filled.peak), megabytes(most))
	}
	t.Logf("\n%s", &b)
	if *writeDocs && !t.Failed() {
		writeTable(t, b.String())
	}
}

// writeTable writes a table where the page has a place for it.
func writeTable(t *testing.T, table string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- sizes -->\n", "<!-- end of sizes -->"
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table: %q and %q", page, begin, end)
	}
	if err := os.WriteFile(page, []byte(before+begin+table+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
