// SPDX-License-Identifier: Apache-2.0

package statuspage

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"fmt"
	"html"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden page")

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// troubled is a status that shows every part of the page.
func troubled() Status {
	s := Status{
		At: noon, Name: "node-1", Boot: "000000000000000a", Version: "v0.3.0",
		NotReady: "draining: shutting down", Uptime: 3*time.Hour + 4*time.Minute + 5*time.Second,
		HTTP: "10.0.0.1:6470", GRPC: "10.0.0.1:6471", Gossip: "10.0.0.1:6472",
		Policy: Policy{
			Path: "/etc/bucketring/policy.yaml", Version: "54e69cc153dee5ac", Digest: strings.Repeat("54e69cc153dee5ac", 4),
			LoadedAt: noon.Add(-3 * time.Hour), LastError: "policy.yaml:3:5: teir: unknown field\n  did you mean tier?",
			LastErrorAt: noon.Add(-time.Minute), Reloads: 2, Failures: 1,
		},
		Cluster: Cluster{
			Label: "prod", State: "leaving", View: 17, RingDigest: "01b7497576abbfc7", Roster: 4,
			Members: []Member{
				{
					Name: "node-1", Self: true, State: "leaving", Boot: "000000000000000a", Started: noon.Add(-3 * time.Hour),
					HTTP: "10.0.0.1:6470", GRPC: "10.0.0.1:6471", Gossip: "10.0.0.1:6472", Policy: "54e69cc153dee5ac",
				},
				{
					Name: "node-2", State: "serving", Boot: "000000000000000b", Started: noon.Add(-2 * time.Hour),
					HTTP: "10.0.0.2:6470", GRPC: "10.0.0.2:6471", Gossip: "10.0.0.2:6472", Policy: "54e69cc153dee5ac",
					Partitions: 2200, Link: &Link{Connected: true, InFlight: 1},
				},
				{
					Name: "node-3", State: "serving", Boot: "000000000000000c", Started: noon.Add(-time.Hour),
					HTTP: "[fd00::3]:6470", GRPC: "[fd00::3]:6471", Gossip: "[fd00::3]:6472", Policy: "a0daaaec65f16c3a",
					Partitions: 1800, Link: &Link{BreakerOpen: true, Queued: 1200}, Problem: "node-3 speaks protocol 2 only",
				},
				{Name: "node-5", State: "joining", Boot: "000000000000000e", Started: noon, Policy: "54e69cc153dee5ac", Link: &Link{}},
			},
			Fencing: []Member{{Name: "node-2", Boot: "000000000000000f", Started: noon.Add(-4 * time.Hour), Gossip: "10.0.0.9:6472"}},
			Departed: []Departure{
				{Name: "node-0", Boot: "0000000000000001", Fate: "left", At: noon.Add(-time.Hour)},
				{Name: "node-4", Boot: "000000000000000d", Fate: "crashed", At: noon.Add(-5 * time.Minute)},
			},
			Crashed: []string{"node-4"},
			Skew: []PolicyGroup{
				{Digest: "54e69cc153dee5ac", Members: []string{"node-1", "node-2", "node-5"}},
				{Digest: "a0daaaec65f16c3a", Members: []string{"node-3"}},
			},
			EnvoySkew: []PolicyGroup{
				{Digest: "1f20ab3c4d5e6f70", Members: []string{"node-1", "node-2"}},
				{Digest: "2a31bc4d5e6f7081", Members: []string{"node-3"}},
			},
			Problem: "10.0.0.4:6472: connection refused", LastContact: noon.Add(-time.Second), HealthScore: 2,
			Outbox: 1234, Fallbacks: map[string]uint64{"breaker": 1_200_000, "late": 3, "broken": 0},
			Keys: []string{"00000000000000aa", "00000000000000bb"},
		},
		Copies: &Copies{
			NotSafe: "12 partitions are being copied", Voters: []string{"node-1", "node-2", "node-3"}, Owned: 1365, Copied: 1366,
			Copying: 12, Moving: 1200, WithoutHeir: 3, WithoutOwner: 1, Lag: 21 * time.Millisecond,
		},
		Journal: &Journal{LastSync: noon.Add(-time.Second), Bytes: 1 << 20, Failing: "no space left on device"},
		Problems: []Problem{
			{"the node at 10.0.0.9:6471 is not taken for the member node-6", "its certificate is not for node-6"},
			{"the usage log /var/log/usage.jsonl has lost 1,200 lines since the start", ""},
		},
		Keys: 123456, Reservations: 12, RequestIDs: 99999,
		HotKeys: HotKeys{
			Rate: 12_345.6, Unreachable: []string{"node-3"},
			Keys: []HotKey{
				{
					Key: "acme/alice", Owner: "node-2", Rate: 8765.4, RateError: 12.3, SliceRate: 7000, Share: 0.71, Holders: []Holder{{"node-1", 2}, {"10.0.0.7", 1}},
					Limit: "tokens", Scope: "acme", Left: "1,200 of 100,000", Askers: []Asker{{"node-1", 8000}, {"10.0.0.7", 765.4}},
				},
				{Key: "globex", Owner: "node-3", Rate: 1.5, Limit: "requests", Scope: "globex", Left: "9 of 10", Shadow: true},
			},
		},
	}
	s.Waiting = Waiting{WaitingCalls{2, 30, 1200}, []WaitingLimit{
		{Limit: "org-tpm", Scope: "acme", Owner: "node-2", WaitingCalls: WaitingCalls{2, 29, 1200}, Longest: 2345 * time.Millisecond},
		{Limit: "big", Scope: "globex/eva", Model: "llama-3-405b", Owner: "node-3", WaitingCalls: WaitingCalls{Standard: 1}},
	}}
	s.Traffic = Traffic{
		Members: []MemberTraffic{
			{
				Name: "node-1", Interval: 5 * time.Second, Decisions: Decisions{Allowed: 1200, Degraded: 30, Denied: 400, FromSlices: 5000}, Fallback: 7,
				Intervals: []Decisions{{Allowed: 100}, {Allowed: 500, Degraded: 20, Denied: 100, FromSlices: 1000}, {}, {Denied: 1}},
			},
			{Name: "node-2", Interval: 5 * time.Second, Decisions: Decisions{Allowed: 10}, Intervals: []Decisions{{Allowed: 4}, {Allowed: 6}}},
		},
		Denials:     []Denial{{Tier: "free", Limit: "tokens", Reason: "limit_exceeded", Calls: 1234}, {Tier: "standard", Reason: "table_full", Calls: 2}},
		Unreachable: []string{"node-3"},
	}
	owners := []string{"node-2", "node-3", "node-2", ""}
	for i, n := range []int{1000, 1800, 1200, 96} {
		s.Owners = append(s.Owners, Run{owners[i], n})
	}
	return s
}

func write(t testing.TB, s Status) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, s); err != nil {
		t.Fatalf("Write: %v", err)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	const file = "testdata/page.html"
	got := write(t, troubled())
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("page differs from %s; if it should, run go test -update (-want +got):\n%s", file, diff)
	}
}

func TestEmptyStatus(t *testing.T) {
	page := write(t, Status{})
	for _, want := range []string{"The owners are not known.", `<td colspan="10">none</td>`, "None.", "All members have the same policy.", "gossip is plaintext", ">ready</strong>"} {
		if !strings.Contains(page, want) {
			t.Errorf("empty page has no %q", want)
		}
	}
}

// TestHostileTexts puts markup into every text of a status: the page must have the
// same tags and quotes as with harmless texts.
func TestHostileTexts(t *testing.T) {
	skeleton := func(text string) string {
		page := write(t, everywhere(text))
		if n := strings.Count(page, html.EscapeString(text)); n < 51 {
			t.Fatalf("%q is shown %d times as it should be, want at least 51", text, n)
		}
		return regexp.MustCompile(`[^<>"']+`).ReplaceAllString(page, "")
	}
	want := skeleton("harmless")
	for _, text := range []string{
		`<script>alert(1)</script>`,
		`"><img src=x onerror=alert(1)>`,
		`' onmouseover='alert(1)`,
		`</title></svg></style></script><script>alert(1)</script>`,
		`<!--`,
		`javascript:alert(1)`,
		`10.0.0.1:80/"onclick="alert(1)`,
		`{{.}}`,
		"\u202egnp.exe",
	} {
		if got := skeleton(text); got != want {
			t.Errorf("%q changes what the page is made of:\n%s", text, cmp.Diff(want, got))
		}
	}
}

func everywhere(text string) Status {
	member := Member{Name: text, State: text, Boot: text, HTTP: text, GRPC: text, Gossip: text, Policy: text, Link: &Link{BreakerOpen: true}, Problem: text}
	return Status{
		Problems: []Problem{{text, text}},
		Copies:   &Copies{NotSafe: text, Voters: []string{text}}, Journal: &Journal{Failing: text},
		Name: text, Boot: text, Version: text, NotReady: text, HTTP: text, GRPC: text, Gossip: text,
		Policy: Policy{Path: text, Version: text, Digest: text, LastError: text},
		Cluster: Cluster{
			Label: text, State: text, RingDigest: text, Problem: text,
			Members: []Member{member}, Fencing: []Member{member},
			Departed:  []Departure{{Name: text, Boot: text, Fate: text}, {Name: text, Boot: text, Fate: "crashed"}},
			Crashed:   []string{text},
			Skew:      []PolicyGroup{{Digest: text, Members: []string{text}}},
			EnvoySkew: []PolicyGroup{{Digest: text, Members: []string{text}}},
			Fallbacks: map[string]uint64{text: 1}, Keys: []string{text},
		},
		Owners:  []Run{{text, 4096}},
		Traffic: Traffic{Members: []MemberTraffic{{Name: text}}, Denials: []Denial{{Tier: text, Limit: text, Reason: text}}, Unreachable: []string{text}},
		Waiting: Waiting{Limits: []WaitingLimit{{Limit: text, Scope: text, Model: text, Owner: text}}},
		HotKeys: HotKeys{Unreachable: []string{text}, Keys: []HotKey{{Key: text, Owner: text, Limit: text, Scope: text, Left: text, Askers: []Asker{{Name: text}}, Holders: []Holder{{Name: text}}}}},
	}
}

// TestPolicyAllowsThePage: the Content-Security-Policy allows all that the page uses.
func TestPolicyAllowsThePage(t *testing.T) {
	page, policy := write(t, troubled()), ContentSecurityPolicy()
	for _, element := range []string{"script", "style"} {
		found := regexp.MustCompile(`(?s)<`+element+`>(.*?)</`+element+`>`).FindAllStringSubmatch(page, -1)
		if len(found) != 1 {
			t.Fatalf("%d elements %s, want 1", len(found), element)
		}
		sum := sha256.Sum256([]byte(found[0][1]))
		if want := element + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "';"; !strings.Contains(policy, want) {
			t.Errorf("policy %q has no %q", policy, want)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
		t.Errorf("policy %q, want one that allows nothing that is not named", policy)
	}
	markup := regexp.MustCompile(`(?s)<(script|style)>.*?</(script|style)>`).ReplaceAllString(page, "")
	if bad := regexp.MustCompile(`(?i)\s(style|on\w+|src)=`).FindString(markup); bad != "" {
		t.Errorf("page has an attribute%s, which the policy forbids", bad)
	}
	for _, link := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if !regexp.MustCompile(`^(data:,|/metrics|/readyz\?verbose|http://[0-9a-f.:\[\]]+:6470/status)$`).MatchString(link[1]) {
			t.Errorf("page links to %q", link[1])
		}
	}
}

// TestLiveParts: each part that the script refreshes has a unique name.
func TestLiveParts(t *testing.T) {
	names := func(s Status) []string {
		var names []string
		seen := map[string]bool{}
		for _, found := range regexp.MustCompile(`data-live="([a-z]*)"`).FindAllStringSubmatch(write(t, s), -1) {
			if seen[found[1]] {
				t.Errorf("two parts are called %q", found[1])
			}
			seen[found[1]] = true
			names = append(names, found[1])
		}
		return names
	}
	if diff := cmp.Diff(names(troubled()), names(Status{})); diff != "" {
		t.Errorf("parts depend on the status (-full +empty):\n%s", diff)
	}
}

func TestLink(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.1:6470":    "http://10.0.0.1:6470/status",
		"[fd00::1]:80":     "http://[fd00::1]:80/status",
		"":                 "",
		"0.0.0.0:6470":     "",
		"[::]:6470":        "",
		"10.0.0.1:0":       "",
		"example.com:80":   "",
		"10.0.0.1:80/x":    "",
		"javascript:alert": "",
	} {
		if got := link(address); got != want {
			t.Errorf("link(%q) = %q, want %q", address, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -999: "-999", -1000: "-1,000"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                "0 s",
		59 * time.Second: "59 s",
		time.Minute:      "1 min 0 s",
		3*time.Hour + 4*time.Minute + 5*time.Second: "3 h 4 min",
		50*time.Hour + 59*time.Minute:               "2 d 2 h",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("formatDuration(%v) = %q, want %q", d, got, want)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	s := troubled()
	s.Owners = nil
	for i := range 4096 {
		s.Owners = append(s.Owners, Run{fmt.Sprint("node-", i*7919%3), 1})
	}
	b.ReportAllocs()
	for b.Loop() {
		var page bytes.Buffer
		if err := Write(&page, s); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(page.Len()), "bytes/page")
	}
}
