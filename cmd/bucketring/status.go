// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/node"
)

func newStatus(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show a node and the cluster as it sees it",
		Long: `Show a node and the cluster as it sees it: who is there, who owns how much of the
ring, which policy each member has in force, how calls get to them, and what is
not as it should be. Nodes that agree show the same ring.

A link is idle until the first call for the member, and away when the member does
not answer: this node then decides without it. With -o json everything is
printed, as GET /status has it.`,
		Example: `  bucketring status
  bucketring status --http 127.0.0.1:6480
  bucketring status -o json`,
		Args: arguments(),
	}
	flags := cmd.Flags()
	address := flags.String("http", "", "address of the node's HTTP API (default $BUCKETRING_HTTP or "+defaultHTTP+")")
	timeout := flags.Duration("timeout", 5*time.Second, "time to wait for the answer")
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		target, err := dialable(s.setting(*address, "BUCKETRING_HTTP", defaultHTTP))
		if err != nil {
			return misused(cmd, fmt.Errorf("--http: %w", err), "")
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *timeout)
		defer cancel()
		text, err := fetchStatus(ctx, target)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return s.indented(text)
		}
		var status node.Status
		if err := json.Unmarshal(text, &status); err != nil {
			return failed(fmt.Errorf("%s: read the status: %w", target, err), "is that a node of this version? it may still do with -o json")
		}
		s.nodeStatus(&status, time.Now())
		return nil
	}
	return cmd
}

const notHTTP = "is that the HTTP address of a node?"

// maxStatus is more than the status of any cluster has.
const maxStatus = 64 << 20

func fetchStatus(ctx context.Context, target string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+target+"/status", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // without the URL
		}
		try := notHTTP
		if _, network := errors.AsType[net.Error](err); network {
			try = "is a node running there? start one with: bucketring dev"
		}
		return nil, failed(fmt.Errorf("%s did not answer: %w", target, err), try)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return nil, failed(fmt.Errorf("%s: read the status: %w", target, err), "")
	}
	if resp.StatusCode != http.StatusOK {
		return nil, failed(fmt.Errorf("%s answered %s", target, resp.Status), notHTTP)
	}
	return text, nil
}

// nodeStatus prints a status for a person: the node, its members, and what is
// wrong.
func (s *streams) nodeStatus(n *node.Status, now time.Time) {
	c := &n.Cluster
	word := s.paint(green, "ready")
	if !n.Ready {
		word = s.paint(red, "not ready") + " (" + n.NotReady + ")"
	}
	s.printf("%s is %s  version %s  up %s\n", n.Name, word, n.Version, short(time.Duration(n.UptimeSeconds)*time.Second))
	s.printf("cluster %s  ring %s  view %d  policy %s\n\n", c.Label, c.RingDigest, c.View, n.Policy.Version)
	s.members(c)
	if notes := notesOn(n, now); len(notes) > 0 {
		s.printf("\n")
		for _, note := range notes {
			s.printf("%s %s\n", s.paint(yellow, "!"), note)
		}
	}
}

func (s *streams) members(c *node.ClusterStatus) {
	total := 0
	for _, m := range c.Members {
		total += m.Partitions
	}
	row, flush := s.columns("MEMBER", "STATE", "PARTITIONS", "POLICY", "HTTP", "GRPC", "LINK")
	defer flush()
	for _, m := range c.Members {
		partitions := strconv.Itoa(m.Partitions)
		if m.Partitions > 0 {
			partitions += fmt.Sprintf(" (%d%%)", (m.Partitions*100+total/2)/total)
		}
		row(m.Name, m.State, partitions, m.PolicyDigest.String(), cmp.Or(m.HTTP, "-"), cmp.Or(m.GRPC, "-"), s.link(m))
	}
}

// link says how calls get to a member.
func (s *streams) link(m node.MemberStatus) string {
	switch l := m.Link; {
	case m.Self:
		return "this node"
	case l == nil:
		return "-"
	case l.BreakerOpen:
		return s.paint(red, "away")
	case !l.Connected:
		return "idle"
	case l.Queued > 0:
		return fmt.Sprintf("%s, %s queued", s.paint(green, "up"), grouped(int64(l.Queued)))
	}
	return s.paint(green, "up")
}

// notesOn says in words what is not as it should be.
func notesOn(n *node.Status, now time.Time) (notes []string) {
	c := &n.Cluster
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if c.Fenced {
		add("this node is fenced: another node that is called %s started later, and decides in its place. Stop one of them", n.Name)
	}
	for _, m := range c.Fencing {
		add("fenced: %s at %s lost its name to a node that started later. Stop one of them", m.Name, m.Gossip)
	}
	if len(c.PolicySkew) > 0 {
		add("policies differ: %s", groups(c.PolicySkew))
	}
	if len(c.EnvoySkew) > 0 {
		add("rules for Envoy differ: %s", groups(c.EnvoySkew))
	}
	if n.Policy.LastError != "" {
		add("the policy files cannot be used, the policy before stays in force: %s", n.Policy.LastError)
	}
	for _, d := range c.Departed {
		if slices.ContainsFunc(c.Members, func(m node.MemberStatus) bool { return m.Name == d.Name }) {
			continue // it is back
		}
		counts := ""
		if d.Fate == "crashed" {
			counts = fmt.Sprintf(", and counts in the roster of %d until it is forgotten", c.Roster)
		}
		add("gone: %s %s %s ago%s", d.Name, d.Fate, short(max(0, now.Sub(d.At))), counts)
	}
	if c.Problem != "" {
		add("members that are missing cannot be reached: %s", strings.Join(strings.Fields(c.Problem), " "))
	}
	if c.Outbox > 0 {
		add("calls decided without their owner, who is not told yet: %s", grouped(int64(c.Outbox)))
	}
	if causes, total := fallbacks(c.Fallbacks); total > 0 {
		add("calls decided without their owner since the start: %s (%s)", grouped(total), causes)
	}
	return notes
}

// groups says who has what.
func groups(list []node.DigestGroup) string {
	parts := make([]string, len(list))
	for i, g := range list {
		parts[i] = g.Digest.String() + " on " + strings.Join(g.Members, ", ")
	}
	return strings.Join(parts, "; ")
}

// fallbackCauses says in words why a call was decided without its owner.
var fallbackCauses = map[string]string{
	"broken":     "the connection was broken",
	"breaker":    "the owner was away",
	"queue_full": "too many calls waited for the owner",
	"late":       "no answer came in time",
	"redirect":   "members did not agree on the owner",
	"no_owner":   "there was no owner",
}

// fallbacks lists the causes that there were.
func fallbacks(counts map[string]uint64) (causes string, total int64) {
	var parts []string
	for _, cause := range slices.Sorted(maps.Keys(counts)) {
		if n := int64(counts[cause]); n > 0 {
			total += n
			parts = append(parts, grouped(n)+": "+cmp.Or(fallbackCauses[cause], cause))
		}
	}
	return strings.Join(parts, "; "), total
}
