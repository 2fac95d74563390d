// SPDX-License-Identifier: Apache-2.0

package local

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseFault(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind FaultKind
		text string
		want Fault
		flag string // how it is written back, if otherwise
	}{
		{Kill, "2@10s", Fault{Node: 2, At: 10 * time.Second}, ""},
		{Kill, "12@1m30s", Fault{Node: 12, At: 90 * time.Second}, ""},
		{Kill, "1@0s", Fault{Node: 1}, ""},
		{Kill, "1@0", Fault{Node: 1}, "--kill 1@0s"},
		{Kill, "1@120s", Fault{Node: 1, At: 2 * time.Minute}, "--kill 1@2m"},
		{Kill, "1@1h", Fault{Node: 1, At: time.Hour}, ""},
		{Pause, "1@5s+3s", Fault{Node: 1, At: 5 * time.Second, Duration: 3 * time.Second}, ""},
		{Pause, "1@500ms+1.5s", Fault{Node: 1, At: time.Second / 2, Duration: 1500 * time.Millisecond}, ""},
		{Pause, "1@5s+300ms/1s", Fault{Node: 1, At: 5 * time.Second, Duration: 300 * time.Millisecond, Interval: time.Second}, ""},
		{Busy, "8@10s+60s", Fault{Processes: 8, At: 10 * time.Second, Duration: time.Minute}, "--busy 8@10s+1m"},
		{Leave, "3@20s", Fault{Node: 3, At: 20 * time.Second}, ""},
		{Join, "@30s", Fault{At: 30 * time.Second}, ""},
		{Join, "2@30s", Fault{Node: 2, At: 30 * time.Second}, ""},
		{Restart, "rolling@15s", Fault{At: 15 * time.Second}, ""},
		{Restart, "rolling@15s/5s", Fault{At: 15 * time.Second, Interval: 5 * time.Second}, ""},
	} {
		c.want.Kind = c.kind
		got, err := ParseFault(c.kind, c.text)
		if err != nil || got != c.want {
			t.Errorf("ParseFault(%s, %s) = %+v, %v, want %+v", c.kind, c.text, got, err, c.want)
		}
		if c.flag == "" {
			c.flag = "--" + string(c.kind) + " " + c.text
		}
		if got := got.String(); got != c.flag {
			t.Errorf("String of %s %s = %s, want %s", c.kind, c.text, got, c.flag)
		}
	}
}

func TestParseFaultRejects(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind       FaultKind
		text, want string
	}{
		{Kill, "", `kill: must be NODE@TIME such as 2@10s, got "": @ is missing`},
		{Kill, "10s", "@ is missing"},
		{Kill, "2@", `"" is not a duration`},
		{Kill, "@10s", `"" is not a node number`},
		{Kill, "0@10s", `"0" is not a node number`},
		{Kill, "-1@10s", `"-1" is not a node number`},
		{Kill, "70000@10s", `"70000" is not a node number`},
		{Kill, "bench-2@10s", `"bench-2" is not a node number`},
		{Kill, "2@10", `"10" is not a duration such as 10s or 1m30s`},
		{Kill, "2@-1s", `"-1s" is not a duration`},
		{Kill, "2@+1s", `"+1s" is not a duration`},
		{Kill, "2@10s+3s", `"10s+3s" is not a duration`},
		{Kill, "2@10s/3s", `"10s/3s" is not a duration`},
		{Pause, "1@5s", `pause: must be NODE@TIME+TIME such as 1@5s+3s, or NODE@TIME+TIME/TIME such as 1@5s+300ms/1s for one each second, got "1@5s": the time that it lasts is missing`},
		{Pause, "1@5s+300ms/", `"" is not a duration`},
		{Pause, "1@5s+300ms/300ms", "the interval must be longer than the pause"},
		{Busy, "8@10s", `busy: must be PROCESSES@TIME+TIME such as 8@10s+60s, got "8@10s": the time that it lasts is missing`},
		{Busy, "0@10s+1s", `"0" is not a number of processes from 1 to 256`},
		{Busy, "257@10s+1s", `"257" is not a number of processes`},
		{Busy, "@10s+1s", `"" is not a number of processes`},
		{Busy, "2@10s+0s", "the time that it lasts must not be 0s"},
		{Busy, "2@10s+2s/3s", `"2s/3s" is not a duration`},
		{Pause, "1@5s+", `"" is not a duration`},
		{Pause, "1@5s+0s", "the time that it lasts must not be 0s"},
		{Pause, "1@5s++3s", `"+3s" is not a duration`},
		{Pause, "1@+3s", `"" is not a duration`},
		{Leave, "all@5s", `"all" is not a node number`},
		{Join, "30s", "@ is missing"},
		{Join, "x@30s", `"x" is not a node number`},
		{Restart, "2@15s", `restart: must be rolling@TIME such as rolling@15s, or rolling@TIME/TIME such as rolling@15s/5s, got "2@15s": must begin with rolling, got "2"`},
		{Restart, "@15s", `must begin with rolling, got ""`},
		{Restart, "rolling@15s/", `"" is not a duration`},
		{Restart, "rolling@/5s", `"" is not a duration`},
		{Crash, "2@10s", `unknown kind of fault "crash"`},
		{"burn", "2@10s", `unknown kind of fault "burn"`},
	} {
		_, err := ParseFault(c.kind, c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseFault(%s, %q) = %v, want %s", c.kind, c.text, err, c.want)
		}
	}
}

func FuzzParseFault(f *testing.F) {
	for _, text := range []string{"2@10s", "1@5s+3s", "1@5s+300ms/1s", "8@10s+60s", "@30s", "rolling@15s/5s", "1@1h0m0.5s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for kind := range faultSyntax {
			got, err := ParseFault(kind, text)
			if err != nil {
				continue
			}
			value := strings.TrimPrefix(got.String(), "--"+string(kind)+" ")
			if again, err := ParseFault(kind, value); err != nil || again != got {
				t.Errorf("ParseFault(%s, %q) = %+v, and of its String %q %+v, %v", kind, text, got, value, again, err)
			}
			if got.At < 0 || got.Duration < 0 || got.Interval < 0 || got.Node < 0 {
				t.Errorf("ParseFault(%s, %q) = %+v, want nothing negative", kind, text, got)
			}
		}
	})
}

// faultsOf parses lines such as "kill 2@10s".
func faultsOf(t *testing.T, texts ...string) (faults []Fault) {
	t.Helper()
	for _, text := range texts {
		kind, value, _ := strings.Cut(text, " ")
		f, err := ParseFault(FaultKind(kind), value)
		if err != nil {
			t.Fatal(err)
		}
		faults = append(faults, f)
	}
	return faults
}

func TestNewPlan(t *testing.T) {
	t.Parallel()
	p, err := NewPlan(3, time.Minute, faultsOf(t,
		"join @30s", "kill 4@40s", "kill 2@10s", "join 2@20s", "pause 1@5s+3s", "pause 1@8s+52s",
		"leave 3@10s", "join 3@10s", "restart rolling@15s", "join @45s", "join 4@59s", "kill 2@20s",
	)...)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range p.Faults() {
		got = append(got, f.String())
	}
	want := []string{
		"--pause 1@5s+3s", "--pause 1@8s+52s", "--kill 2@10s", "--leave 3@10s", "--join 3@10s", "--restart rolling@15s",
		"--join 2@20s", "--kill 2@20s", "--join @30s", "--kill 4@40s", "--join @45s", "--join 4@59s",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults, want -, got +:\n%s", diff)
	}
	if p.total != 5 || p.steps[8].node != 4 || p.steps[10].node != 5 {
		t.Errorf("total = %d, who join are %d and %d, want 5, 4 and 5", p.total, p.steps[8].node, p.steps[10].node)
	}
	if got := (*Plan)(nil).Faults(); got != nil {
		t.Errorf("faults of no plan = %v, want none", got)
	}
}

func TestNewPlanRejects(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		faults []string
		want   string
	}{
		{[]string{"kill 4@10s"}, "--kill 4@10s: unknown node 4, there are 1 to 3 at that time"},
		{[]string{"kill 4@10s", "join @20s"}, "unknown node 4"},
		{[]string{"kill 1@60s"}, "--kill 1@1m: must be within the run, which takes 1m"},
		{[]string{"kill 1@10s", "kill 1@20s"}, "--kill 1@20s: bench-1 is down, killed at 10s"},
		{[]string{"kill 1@20s", "kill 1@10s"}, "--kill 1@20s: bench-1 is down, killed at 10s"},
		{[]string{"leave 1@10s", "pause 1@20s+1s"}, "--pause 1@20s+1s: bench-1 is down, stopped at 10s"},
		{[]string{"pause 1@5s+3s", "kill 1@7s"}, "--kill 1@7s: bench-1 is paused until 8s"},
		{[]string{"pause 1@5s+3s", "pause 1@7s+1s"}, "bench-1 is paused until 8s"},
		{[]string{"pause 1@50s+11s"}, "--pause 1@50s+11s: must end within the run, which takes 1m"},
		{[]string{"pause 1@5s+300ms/1s", "kill 1@59s"}, "--kill 1@59s: bench-1 is paused until 1m"},
		{[]string{"busy 8@50s+11s"}, "--busy 8@50s+11s: must end within the run, which takes 1m"},
		{[]string{"pause 1@1s+2562047h"}, "must end within the run"},
		{[]string{"join 2@10s"}, "--join 2@10s: bench-2 is running at that time"},
		{[]string{"kill 2@10s", "join 2@20s", "join 2@30s"}, "--join 2@30s: bench-2 is running at that time"},
		{[]string{"join 4@10s"}, "unknown node 4"},
		{[]string{"kill 1@1s", "kill 2@1s", "kill 3@1s", "restart rolling@2s"}, "--restart rolling@2s: no node is running at that time"},
	} {
		p, err := NewPlan(3, time.Minute, faultsOf(t, c.faults...)...)
		if p != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("NewPlan(%q) = %v, %v, want %s", c.faults, p, err, c.want)
		}
	}
	// Every problem, and faults that nobody parsed.
	_, err := NewPlan(1, time.Minute,
		Fault{Kind: "burn", Node: 1}, Fault{Kind: Kill}, Fault{Kind: Pause, Node: 1}, Fault{Kind: Restart, Node: 1}, Fault{Kind: Kill, Node: 1, At: -1})
	if err == nil || strings.Count(err.Error(), "\n") != 4 {
		t.Errorf("NewPlan of five bad faults = %v, want five lines", err)
	}
	for _, nodes := range []int{-1, 0, 101} {
		if _, err := NewPlan(nodes, time.Minute); err == nil || !strings.Contains(err.Error(), "nodes: must be 1 to 100") {
			t.Errorf("NewPlan(%d) = %v, want an error", nodes, err)
		}
	}
	if _, err := NewPlan(100, time.Minute, Fault{Kind: Join}); err == nil || !strings.Contains(err.Error(), "must be at most 100 nodes") {
		t.Errorf("NewPlan with 101 nodes = %v, want an error", err)
	}
}
