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
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/journal"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/internal/tokenfile"
)

func newStatus(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state of a node and of its cluster",
		Long: `Show the state of a node and its view of the cluster: the members, their shares of
the ring, their policies, the links to them, and warnings. Nodes that agree on the
owners show the same ring.

A link is idle until the first call for the member, and away if the member does not
answer: this node then decides without it. If calls wait for limits at this node, their
owner, the five limits at which most do are listed. -o json prints everything that GET
/status returns.

This asks the HTTP API, at --http, as "bucketring health" and "forget" do. Commands that
are calls of the API, such as "check" and "admin", ask its gRPC address, at --server.

--partitions lists each partition instead, as this node knows it: its owner and heir,
the role of this node, and the copy that this node sends to the next owner or heir.
With --member, it lists those of which that member is the owner or the heir, or is to
be. To see the partition of a key, use: bucketring keys KEY`,
		Example: `  bucketring status
  bucketring status --http 127.0.0.1:6480
  bucketring status --partitions --member node-1
  bucketring status -o json`,
		Args: exactArgs(),
	}
	flags := cmd.Flags()
	address := flags.String("http", "", "address of the node's HTTP API (default $BUCKETRING_HTTP or "+defaultHTTP+")")
	timeout := flags.Duration("timeout", 5*time.Second, "time to wait for the answer")
	partitions := flags.Bool("partitions", false, "list the partitions")
	member := flags.String("member", "", "with --partitions: only those of this member")
	var token tokenFlag
	token.declare(flags)
	secure := newCallerTLS(s, cmd)
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *member != "" && !*partitions {
			return usageError(cmd, errors.New("--member: needs --partitions"), "")
		}
		api, err := secure.httpNode(cmd, s.flagOrEnv(*address, "BUCKETRING_HTTP", defaultHTTP))
		if err != nil {
			return err
		}
		target := api.target
		ctx, cancel := context.WithTimeout(cmd.Context(), *timeout)
		defer cancel()
		path := "/status"
		if *partitions {
			path = "/status/partitions"
			if *member != "" {
				path += "?" + url.Values{"member": {*member}}.Encode()
			}
		}
		credentials, err := token.source(cmd, s)
		if err != nil {
			return err
		}
		text, err := fetchStatus(ctx, api, path, credentials)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return s.indentJSON(text)
		}
		if *partitions {
			return printJSON(target, text, s.printPartitions)
		}
		return printJSON(target, text, func(status *node.Status) { s.printStatus(status, time.Now()) })
	}
	return cmd
}

// printJSON parses what a node has answered and prints it.
func printJSON[T any](target string, text []byte, show func(*T)) error {
	var answer T
	if err := json.Unmarshal(text, &answer); err != nil {
		return errorWithHint(fmt.Errorf("%s: read the status: %w", target, err), "check that the node has the same version, or use -o json")
	}
	show(&answer)
	return nil
}

const notHTTP = "check that this is the HTTP address of a node"

// maxStatus bounds the size of a status, in bytes.
const maxStatus = 64 << 20

func fetchStatus(ctx context.Context, api *httpNode, path string, token *tokenfile.Source) ([]byte, error) {
	target := api.target
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, api.base+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	if err := setToken(r, token); err != nil {
		return nil, err
	}
	resp, err := api.client.Do(r)
	if err != nil {
		return nil, unanswered(target, api.usesTLS(), err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return nil, errorWithHint(fmt.Errorf("%s: read the status: %w", target, err), "")
	}
	if err := refusedError(target, resp, text); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, problemOf(target, resp, text, notHTTP)
	}
	return text, nil
}

// problemOf returns the error of an answer that is not the expected one: what it says, or its
// status, with a hint, if it is not from the API.
func problemOf(target string, resp *http.Response, body []byte, hint string) error {
	var problem struct{ Error, Message string }
	if json.Unmarshal(body, &problem) != nil || problem.Message == "" || problem.Error == "not_found" {
		return errorWithHint(fmt.Errorf("%s answered %s", target, resp.Status), hint)
	}
	return errorWithHint(errors.New(problem.Message), "")
}

// unanswered returns the error of a call that an HTTP client could not make.
func unanswered(target string, usedTLS bool, err error) error {
	if cause := errors.Unwrap(err); cause != nil {
		err = cause // omits the URL
	}
	hint := notHTTP
	if e, network := errors.AsType[net.Error](err); network {
		hint = noAnswerHint(e.Timeout())
	}
	return errorWithHint(fmt.Errorf("%s did not answer: %w", target, err), tlsHintOf(err, usedTLS, hint))
}

// noAnswerHint is the hint for a call without an answer, late if its time was over.
func noAnswerHint(late bool) string {
	if late {
		return "the node or the network is too slow, or drops packets: try a longer --timeout"
	}
	return "start a node there, for example with: bucketring dev"
}

// printStatus prints a status as text: the node, the members and warnings.
func (s *streams) printStatus(n *node.Status, now time.Time) {
	c := &n.Cluster
	word := s.colorize(green, "ready")
	if !n.Ready {
		word = s.colorize(red, "not ready") + " (" + n.NotReady + ")"
	}
	s.printf("%s is %s  version %s  up %s\n", n.Name, word, n.Version, formatDuration(time.Duration(n.UptimeSeconds)*time.Second))
	s.printf("cluster %s  ring %s  view %d  policy %s\n", c.Label, c.RingDigest, c.View, n.Policy.Version)
	switch e := n.Envoy; {
	case e == nil:
	case e.Digest == "":
		s.printf("no rules for Envoy yet\n")
	default:
		s.printf("rules for Envoy %s: %s in %s\n", e.Digest, amount.Plural(int64(e.Rules), "rule"), strings.Join(e.Domains, ", "))
	}
	s.printf("\n")
	s.printMembers(c)
	s.printReplication(c.Replication, n.Journal, now)
	if n.Waiting != nil && n.Waiting.Total() > 0 {
		s.printf("\n")
		s.printWaiting(n.Waiting)
	}
	if list := warnings(n, now); len(list) > 0 {
		s.printf("\n")
		for _, warning := range list {
			s.printf("%s %s\n", s.colorize(yellow, "!"), warning)
		}
	}
}

// printPartitions prints who holds partitions.
func (s *streams) printPartitions(n *node.PartitionsStatus) {
	row, flush := s.columns("PARTITION", "OWNER", "HEIR", "ROLE OF "+strings.ToUpper(n.Name), "TERM", "LAG", "TRANSFER")
	defer flush()
	for i := range n.Partitions {
		p := &n.Partitions[i]
		heir, lag, transfer := cmp.Or(p.Heir, "-"), "-", "-"
		if p.Heir != "" && !p.HeirComplete {
			heir += " (incomplete)"
		}
		if p.Owner == n.Name {
			lag = fmt.Sprintf("%d ms", p.LagMillis)
		}
		if t := p.Transfer; t != nil {
			transfer = fmt.Sprintf("%s to %s, the next %s", t.Phase, t.To, t.Becomes)
		}
		row(strconv.Itoa(p.Partition), cmp.Or(p.Owner, "-"), heir, p.Role, strconv.FormatUint(p.Term, 10), lag, transfer)
	}
}

func (s *streams) printMembers(c *node.ClusterStatus) {
	owned := make([]float64, len(c.Members))
	for i, m := range c.Members {
		owned[i] = float64(m.Partitions)
	}
	shares := amount.Shares(100, owned)
	row, flush := s.columns("MEMBER", "STATE", "PARTITIONS", "POLICY", "HTTP", "GRPC", "LINK")
	defer flush()
	for i, m := range c.Members {
		partitions := strconv.Itoa(m.Partitions)
		if m.Partitions > 0 {
			partitions += fmt.Sprintf(" (%d%%)", shares[i])
		}
		row(m.Name, m.State, partitions, m.PolicyDigest.String(), cmp.Or(m.HTTP, "-"), cmp.Or(m.GRPC, "-"), s.linkState(m))
	}
}

// printReplication prints what this node holds, what is on its way, and whether a node may
// be lost now.
func (s *streams) printReplication(r *node.ReplicationStatus, j *journal.Status, now time.Time) {
	if r != nil {
		fenced := r.Fenced()
		s.printf("\ndecides for %s partitions, copies of %s; %s moving, %s being copied; heirs lag by %d ms\n",
			amount.Group(int64(r.Owned-fenced)), amount.Group(int64(r.Copies)), amount.Group(int64(r.Moving)), amount.Group(int64(r.Copying)), r.LagMillis)
		if fenced > 0 {
			s.printf("decides nothing for %s: their heirs have not renewed its lease; calls for them are answered in fallback\n", amount.Plural(int64(fenced), "partition"))
		}
		if r.Safe {
			s.printf("any one node may be restarted or lost now\n")
		} else {
			s.printf("no node may be restarted or lost now: %s\n", r.NotSafe)
		}
	}
	if j != nil && j.LastSync != nil {
		s.printf("journal: all changes until %s ago are on disk\n", max(0, now.Sub(*j.LastSync)).Round(time.Millisecond))
	}
}

// linkState describes the link to a member.
func (s *streams) linkState(m node.MemberStatus) string {
	switch l := m.Link; {
	case m.Self:
		return "this node"
	case l == nil:
		return "-"
	case l.BreakerOpen:
		return s.colorize(red, "away")
	case !l.Connected:
		return "idle"
	case l.Queued > 0:
		return fmt.Sprintf("%s, %s queued", s.colorize(green, "up"), amount.Group(int64(l.Queued)))
	}
	return s.colorize(green, "up")
}

// warnings describes the problems that a status shows.
func warnings(n *node.Status, now time.Time) (list []string) {
	c := &n.Cluster
	add := func(format string, args ...any) { list = append(list, text.OneLine(fmt.Sprintf(format, args...))) }
	if c.Fenced {
		add("this node is fenced: another node with the name %s started later and decides instead. Stop one of them; if that is the newer one, start this one again", n.Name)
	}
	for _, m := range c.Fencing {
		add("fenced: %s at %s lost its name to a node that started later. Stop one of them", m.Name, m.Gossip)
	}
	if len(c.PolicySkew) > 0 {
		add("policies differ: %s", policyGroups(c.PolicySkew))
	}
	if len(c.EnvoySkew) > 0 {
		add("rules for Envoy differ: %s", policyGroups(c.EnvoySkew))
	}
	switch p := n.Policy; {
	case p.LastGood:
		add("the policy is the last good one of %s, since %s has none that is valid: %s", p.LoadedAt.UTC().Format(time.RFC3339), p.Path, p.LastError)
	case p.LastError != "" && p.Source != "":
		add("the policy at %s cannot be used since %s, so the previous policy stays in force: %s", p.Path, p.StaleSince.UTC().Format(time.RFC3339), p.LastError)
	case p.LastError != "":
		add("the policy files cannot be used, so the previous policy stays in force: %s", n.Policy.LastError)
	}
	if n.RefusedInMinute > 0 {
		add("this node is overloaded: it refused %s new calls in the last minute", amount.Group(n.RefusedInMinute))
	}
	for _, m := range c.Members {
		if m.Link != nil && m.Link.RefusedInMinute > 0 {
			add("%s answers too slowly: this node refused %s calls for its keys in the last minute", m.Name, amount.Group(int64(m.Link.RefusedInMinute)))
		}
	}
	for _, m := range c.Members {
		if m.Replication != nil && m.Replication.Problem != "" {
			add("no copies and no votes go to %s: %s", m.Name, m.Replication.Problem)
		}
	}
	for _, p := range n.Problems() {
		add("%s", p)
	}
	for _, d := range c.Gone() {
		counts := ""
		if d.Fate == "crashed" {
			counts = fmt.Sprintf(", and stays in the roster of %d members until it is forgotten", c.Roster)
		}
		add("departed: %s %s %s ago%s", d.Name, d.Fate, formatDuration(max(0, now.Sub(d.At))), counts)
	}
	if j := n.Journal; j != nil && j.Failing != "" {
		add("changes are not on disk, and a crash would lose them: %s", j.Failing)
	}
	if j := n.Journal; j != nil && j.SnapshotError != "" {
		add("journals grow, because no snapshot can be written: %s", j.SnapshotError)
	}
	if c.Problem != "" {
		add("missing members cannot be reached: %s", c.Problem)
	}
	if c.Outbox > 0 {
		add("calls decided without their owner that are not yet reported to it: %s", amount.Group(int64(c.Outbox)))
	}
	if causes, total := fallbackCauses(c.Fallbacks); total > 0 {
		add("calls decided without their owner since the start: %s (%s)", amount.Group(total), causes)
	}
	return list
}

// policyGroups lists which members have which digest.
func policyGroups(list []node.DigestGroup) string {
	parts := make([]string, len(list))
	for i, g := range list {
		parts[i] = g.Digest.String() + " on " + strings.Join(g.Members, ", ")
	}
	return strings.Join(parts, "; ")
}

// fallbackCauseText describes why a call was decided without its owner.
var fallbackCauseText = map[string]string{
	"broken":     "the connection was broken",
	"breaker":    "the owner did not answer",
	"queue_full": "too many calls were waiting for the owner",
	"late":       "the owner answered too late",
	"redirect":   "members did not agree on the owner",
	"no_owner":   "there was no owner",
}

// fallbackCauses lists the causes with their counts, and the total.
func fallbackCauses(counts map[string]uint64) (causes string, total int64) {
	var parts []string
	for _, cause := range slices.Sorted(maps.Keys(counts)) {
		if n := int64(counts[cause]); n > 0 {
			total += n
			parts = append(parts, amount.Group(n)+": "+cmp.Or(fallbackCauseText[cause], cause))
		}
	}
	return strings.Join(parts, "; "), total
}
