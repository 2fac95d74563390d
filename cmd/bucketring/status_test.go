// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/internal/journal"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/internal/tlsfiles"
	"github.com/bucketring/bucketring/internal/usagelog"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/rpc/admin"
	"github.com/bucketring/bucketring/rpc/envoy/xds"
	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/peer"
)

func TestStatusShowsWarnings(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	const one, two = cluster.ID(0x11), cluster.ID(0x22)
	badPolicy := fmt.Errorf("reload policy: %w", policy.Problems{
		{File: "policy.yaml", Line: 2, Column: 3, Message: "no", Excerpt: "  no: ^", Caret: 2},
		{File: "policy.yaml", Line: 4, Column: 1, Message: "nor this"},
		{File: "policy.yaml", Line: 5, Column: 1, Message: "nor that", Excerpt: "that", Caret: 0},
	})
	status := &node.Status{
		Name: "n1", Version: "v1", NotReady: "fenced: somebody else", UptimeSeconds: 75, RefusedInMinute: 2400,
		Policy: source.Status{Version: one.String(), Status: filewatch.Status{LastError: badPolicy.Error()}},
		Auth:   &auth.Status{Status: filewatch.Status{LastError: "reload callers: auth.yaml:4:3: no"}},
		Envoy: &node.EnvoyStatus{
			Domains: []string{"shop", "chat"}, Rules: 3, Digest: "4db8aa88",
			Files: &filewatch.Status{LastError: "reload envoy rules: limits.yaml:1:1: no\n    domain: x\n    ^"},
			Plane: &xds.Status{Address: "eg:18001", LastError: "limits: descriptors: no"},
		},
		TLS: &node.TLSStatus{Files: []tlsfiles.Status{
			{Name: "node", Problem: "n1.crt and n1.key are not a certificate and its key"}, {Name: "envoy"},
		}},
		UsageLog: &usagelog.Status{File: "usage.jsonl", Lost: 1200, Problem: "write usage.jsonl: no space left on device"},
		AuditLog: admin.AuditStatus{Lost: 3, LastError: "open the audit log: permission denied", Omitted: 7},
		Journal:  &journal.Status{LastSync: new(now.Add(-700 * time.Millisecond)), Failing: "write journal-1: no space left on device"},
		Waiting: &httpapi.Waiting{
			WaitingCalls: httpapi.WaitingCalls{Interactive: 1, Standard: 2},
			Limits:       []httpapi.WaitingLimit{{Scope: "acme", Name: "concurrent", Dimension: "concurrent", Owner: "n1", WaitingCalls: httpapi.WaitingCalls{Interactive: 1, Standard: 2}, LongestMillis: 4200}},
		},
		Cluster: node.ClusterStatus{
			Replication: &node.ReplicationStatus{NotSafe: "12 partitions are being copied", Owned: 1024, Roles: map[string]int{"active": 1012, "fenced": 12}, Copies: 1365, Moving: 3, Copying: 12, LagMillis: 21},
			Label:       "prod", RingDigest: "00000000000000aa", View: 7, Roster: 4, Fenced: true,
			Members: []node.MemberStatus{
				{Name: "n1", State: "serving", Partitions: 1024, HTTP: "10.0.0.1:6470", GRPC: "10.0.0.1:6471", PolicyDigest: one, Link: &peer.LinkStatus{Connected: true, Queued: 1200}},
				{Name: "n2", State: "serving", Partitions: 3072, HTTP: "10.0.0.2:6470", GRPC: "10.0.0.2:6471", PolicyDigest: two, Link: &peer.LinkStatus{BreakerOpen: true}},
				{Name: "n3", State: "leaving", GRPC: "10.0.0.3:6471", PolicyDigest: one, Link: &peer.LinkStatus{Connected: true, RefusedInMinute: 31}, Replication: &node.ReplicationLink{Problem: "n3 speaks protocol 2 only"}},
				{Name: "n4", Self: true, State: "joining", GRPC: "10.0.0.4:6471", PolicyDigest: one},
				{Name: "n5", State: "joining", GRPC: "10.0.0.5:6471", PolicyDigest: one},
			},
			Unvouched: []cluster.Unvouched{
				{Name: "n8", Boot: two, Address: netip.MustParseAddrPort("10.0.0.8:6471"), Problem: "its certificate is for n9 only"},
			},
			Fencing: []node.MemberStatus{{Name: "n2", Gossip: "10.0.0.9:6472"}},
			Departed: []node.Departure{
				{Name: "n6", Fate: "left", At: now.Add(-90 * time.Second)},
				{Name: "n1", Fate: "crashed", At: now.Add(-time.Minute)},     // and rejoined
				{Name: "n7", Fate: "crashed", At: now.Add(-9 * time.Minute)}, // and again
				{Name: "n7", Fate: "crashed", At: now.Add(-3 * time.Second)},
			},
			PolicySkew: []node.DigestGroup{{Digest: one, Members: []string{"n1", "n3"}}, {Digest: two, Members: []string{"n2"}}},
			EnvoySkew:  []node.DigestGroup{{Digest: two, Members: []string{"n2"}}, {Digest: one, Members: []string{"n4"}}},
			Problem:    "1 error occurred:\n\t* failed to join 10.0.0.7:6472: i/o timeout\n\n",
			Outbox:     3,
			Fallbacks:  map[string]uint64{"breaker": 1200, "late": 5, "broken": 0, "news": 1},
		},
	}
	const want = `n1 is not ready (fenced: somebody else)  version v1  up 1m15s
cluster prod  ring 00000000000000aa  view 7  policy 0000000000000011
rules for Envoy 4db8aa88: 3 rules in shop, chat

MEMBER  STATE    PARTITIONS  POLICY            HTTP           GRPC           LINK
n1      serving  1024 (25%)  0000000000000011  10.0.0.1:6470  10.0.0.1:6471  up, 1,200 queued
n2      serving  3072 (75%)  0000000000000022  10.0.0.2:6470  10.0.0.2:6471  away
n3      leaving  0           0000000000000011  -              10.0.0.3:6471  up
n4      joining  0           0000000000000011  -              10.0.0.4:6471  this node
n5      joining  0           0000000000000011  -              10.0.0.5:6471  -

decides for 1,012 partitions, copies of 1,365; 3 moving, 12 being copied; heirs lag by 21 ms
decides nothing for 12 partitions: their heirs have not renewed its lease; calls for them are answered in fallback
no node may be restarted or lost now: 12 partitions are being copied
journal: all changes until 700ms ago are on disk

calls that wait: 1 interactive, 2 standard
INTERACTIVE  STANDARD  BATCH  LONGEST WAIT  LIMIT               OWNER
1            2         0      4.2s          concurrent of acme  n1

! this node is fenced: another node with the name n1 started later and decides instead. Stop one of them; if that is the newer one, start this one again
! fenced: n2 at 10.0.0.9:6472 lost its name to a node that started later. Stop one of them
! policies differ: 0000000000000011 on n1, n3; 0000000000000022 on n2
! rules for Envoy differ: 0000000000000022 on n2; 0000000000000011 on n4
! the policy files cannot be used, so the previous policy stays in force: reload policy: policy.yaml:2:3: no; policy.yaml:4:1: nor this; policy.yaml:5:1: nor that
! this node is overloaded: it refused 2,400 new calls in the last minute
! n3 answers too slowly: this node refused 31 calls for its keys in the last minute
! no copies and no votes go to n3: n3 speaks protocol 2 only
! the node at 10.0.0.8:6471 is not taken for the member n8: its certificate is for n9 only
! the file of callers cannot be used, so the previous callers stay in force: reload callers: auth.yaml:4:3: no
! the rules for Envoy cannot be used, so the previous rules stay in force: reload envoy rules: limits.yaml:1:1: no
! the rules for Envoy of eg:18001 cannot be used, and there are no previous ones: limits: descriptors: no
! TLS files (node) cannot be used, so the previous ones stay in use: n1.crt and n1.key are not a certificate and its key
! the usage log usage.jsonl cannot be written now: write usage.jsonl: no space left on device
! the usage log usage.jsonl has lost 1,200 lines since the start
! the audit log has lost 3 lines since the start: open the audit log: permission denied
! departed: n6 left 1m30s ago
! departed: n7 crashed 3s ago, and stays in the roster of 4 members until it is forgotten
! changes are not on disk, and a crash would lose them: write journal-1: no space left on device
! missing members cannot be reached: 1 error occurred: * failed to join 10.0.0.7:6472: i/o timeout
! calls decided without their owner that are not yet reported to it: 3
! calls decided without their owner since the start: 1,206 (1,200: the owner did not answer; 5: the owner answered too late; 1: news)
`
	var plain, coloured bytes.Buffer
	(&streams{out: &plain}).printStatus(status, now)
	if diff := cmp.Diff(want, plain.String()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	(&streams{out: &coloured, outTTY: true, colour: true}).printStatus(status, now)
	for _, cell := range []string{red + "not ready" + reset, red + "away" + reset, green + "up" + reset, yellow + "!" + reset} {
		if !bytes.Contains(coloured.Bytes(), []byte(cell)) {
			t.Errorf("status on a terminal has no %q:\n%s", cell, &coloured)
		}
	}
}

func TestStatusWithoutRules(t *testing.T) {
	var out bytes.Buffer
	(&streams{out: &out}).printStatus(&node.Status{Envoy: &node.EnvoyStatus{}}, time.Time{})
	if got, want := out.String(), "\nno rules for Envoy yet\n"; !strings.Contains(got, want) {
		t.Errorf("got\n%s\nwant the line %q", got, want)
	}
}

func TestStatusListsPartitions(t *testing.T) {
	var out bytes.Buffer
	(&streams{out: &out}).printPartitions(&node.PartitionsStatus{Name: "n1", Partitions: []node.PartitionStatus{
		{Partition: 0, Role: "none"},
		{Partition: 7, Owner: "n1", Heir: "n2", HeirComplete: true, Role: "active", Term: 8589934592, LagMillis: 21},
		{Partition: 8, Owner: "n1", Heir: "n2", Role: "exporting", Term: 3, Transfer: &node.TransferStatus{To: "n3", Becomes: "owner", Phase: "catching up", Lacks: 3}},
		{Partition: 4095, Owner: "n2", Heir: "n1", HeirComplete: true, Role: "backup", Term: 4},
	}})
	const want = `PARTITION  OWNER  HEIR             ROLE OF N1  TERM        LAG    TRANSFER
0          -      -                none        0           -      -
7          n1     n2               active      8589934592  21 ms  -
8          n1     n2 (incomplete)  exporting   3           0 ms   catching up to n3, the next owner
4095       n2     n1               backup      4           -      -
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
