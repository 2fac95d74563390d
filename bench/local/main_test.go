// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bucketring/bucketring/internal/waittest"
)

// patience bounds every wait.
const patience = 60 * time.Second

// helper names what this binary does instead of running tests.
const helper = "BENCH_LOCAL_HELPER"

// built is where the binary under test is, for all tests.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	if how := os.Getenv(helper); how != "" {
		help(how)
		return
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil { // clusters wait more than they work
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if built.dir != "" {
			_ = os.RemoveAll(built.dir)
		}
		os.Exit(code)
	}))
}

// binary returns the program that nodes run, as users get it.
func binary(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		// Tests share it, so it must outlive each of their directories.
		if built.dir, built.err = os.MkdirTemp("", "bench-local-test-"); built.err != nil { //nolint:usetesting // see above
			return
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(built.dir, "bucketring"), "github.com/bucketring/bucketring/cmd/bucketring")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "bucketring")
}

// lines are what a cluster logs.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) add(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(text + "\n")
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// tested is a cluster of a test.
type tested struct {
	*Cluster
	t    *testing.T
	log  *lines
	pids map[int]bool // of all processes that were seen
}

// startCluster starts nodes that are gone when the test ends.
func startCluster(t *testing.T, nodes int, edit func(*Options)) *tested {
	t.Helper()
	r := &tested{t: t, log: &lines{}, pids: make(map[int]bool)}
	o := Options{Nodes: nodes, Binary: binary(t), Dir: t.TempDir(), Log: r.log.add, StopTimeout: patience}
	if edit != nil {
		edit(&o)
	}
	var err error // t's own context ends before Stop is called
	if r.Cluster, err = Start(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	r.see()
	t.Cleanup(func() {
		r.see()
		_ = r.Stop() // tests that want to know ask themselves
		r.allGone()
		if t.Failed() {
			t.Logf("log of the cluster:\n%s", r.log)
		}
	})
	return r
}

// see remembers the processes that there are.
func (r *tested) see() {
	for _, n := range r.Nodes() {
		if n.PID != 0 {
			r.pids[n.PID] = true
		}
	}
}

// allGone wants that no process is left.
func (r *tested) allGone() {
	r.t.Helper()
	for pid := range r.pids {
		if alive(pid) {
			r.t.Errorf("process %d is left", pid)
		}
	}
}

// needsLinux skips a test of what only Linux offers.
func needsLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
}

// alive reports whether a process runs: one that nobody has waited for yet does not.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// result is what Run returned.
type result struct {
	record *Record
	err    error
}

// run runs a plan until it has as many marks with an effect or a problem as wanted.
func (r *tested) run(marks int, faults ...string) result {
	r.t.Helper()
	p, err := NewPlan(len(r.Nodes()), patience, faultsOf(r.t, faults...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	ended := make(chan result, 1)
	go func() {
		record, err := r.Run(ctx, time.Now(), p)
		ended <- result{record, err}
	}()
	waittest.Until(r.t, fmt.Sprintf("%d marks of %q", marks, faults), func() bool {
		r.see()
		done := 0
		for _, m := range r.Marks() {
			if m.EffectiveAt > 0 || m.Problem != "" || m.Kind == Crash {
				done++
			}
		}
		return done >= marks
	})
	cancel()
	return <-ended
}

// ringOf returns the numbers of the nodes in the ring that all who run have.
func (r *tested) ringOf() string {
	r.t.Helper()
	ring := ""
	for _, n := range r.allNodes() {
		if _, _, ok := n.runningChild(); !ok {
			continue
		}
		s, err := r.fetchStatus(r.t.Context(), n)
		if err != nil {
			r.t.Fatal(err)
		}
		var names []string
		for _, m := range s.Cluster.Members {
			if m.Partitions > 0 {
				names = append(names, strings.TrimPrefix(m.Name, "bench-"))
			}
		}
		own := strings.Join(names, " ") + " " + s.Cluster.Ring
		if ring != "" && own != ring {
			r.t.Errorf("the ring of %s is %s, want %s", n.name, own, ring)
		}
		ring = own
	}
	return ring[:max(0, strings.LastIndex(ring, " "))]
}

// get returns the status code of a path.
func get(t *testing.T, url string) int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}
