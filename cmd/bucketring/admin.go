// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/pb"
)

// remoteAdmin forwards calls of operators to a node, and keeps the error of the last one.
type remoteAdmin struct {
	pb.UnimplementedAdminServer
	client pb.AdminClient
	err    error
}

// kept calls a method of the node, and keeps its error in f.
func kept[Q, A any](ctx context.Context, f *remoteAdmin, q *Q, method func(context.Context, *Q) (*A, error)) (*A, error) {
	a, err := method(ctx, q)
	f.err = err
	return a, err
}

func (f *remoteAdmin) InspectKey(ctx context.Context, q *pb.InspectKeyRequest) (*pb.InspectKeyResponse, error) {
	return kept(ctx, f, q, func(ctx context.Context, q *pb.InspectKeyRequest) (*pb.InspectKeyResponse, error) {
		return f.client.InspectKey(ctx, q)
	})
}

func (f *remoteAdmin) ResetLimits(ctx context.Context, q *pb.ResetLimitsRequest) (*pb.Change, error) {
	return kept(ctx, f, q, func(ctx context.Context, q *pb.ResetLimitsRequest) (*pb.Change, error) {
		return f.client.ResetLimits(ctx, q)
	})
}

func (f *remoteAdmin) GrantCredit(ctx context.Context, q *pb.GrantCreditRequest) (*pb.Change, error) {
	return kept(ctx, f, q, func(ctx context.Context, q *pb.GrantCreditRequest) (*pb.Change, error) {
		return f.client.GrantCredit(ctx, q)
	})
}

func (f *remoteAdmin) EndReservation(ctx context.Context, q *pb.EndReservationRequest) (*pb.Change, error) {
	return kept(ctx, f, q, func(ctx context.Context, q *pb.EndReservationRequest) (*pb.Change, error) {
		return f.client.EndReservation(ctx, q)
	})
}

func (f *remoteAdmin) Reload(ctx context.Context, q *pb.ReloadRequest) (*pb.ReloadResponse, error) {
	return kept(ctx, f, q, func(ctx context.Context, q *pb.ReloadRequest) (*pb.ReloadResponse, error) {
		return f.client.Reload(ctx, q)
	})
}

func (f *remoteAdmin) Drain(ctx context.Context, q *pb.DrainRequest) (*pb.DrainResponse, error) {
	return kept(ctx, f, q, func(ctx context.Context, q *pb.DrainRequest) (*pb.DrainResponse, error) {
		return f.client.Drain(ctx, q)
	})
}

func newAdmin(s *streams) *cobra.Command {
	cmd := commandGroup(&cobra.Command{
		Use:   "admin",
		Short: "Look at keys and change them, reload files, drain a node",
		Long: `Look at the state of a key, reset its limits, grant it a credit, end a reservation; have
a node read its files again, or drain it.

These commands need a node on the same machine: a node refuses them from other than a
loopback address. --server is its gRPC address, as for "check"; only "status", "health" and
"forget" ask the HTTP API, at --http. Any node will do for a key: the call is sent to its
owner. Changes are written to the audit log. A change has a request id, and is made once
however often it is sent with the same id.`,
		Example: `  bucketring admin key acme/alice
  bucketring admin reset acme/alice --limit tokens
  bucketring admin grant acme/alice --limit spend --amount '$5'
  bucketring admin end acme/alice ref:3f1c0a52b7d94e61c08d27aa
  bucketring admin reload
  bucketring admin drain`,
	})
	for _, c := range []*cobra.Command{newAdminKey(s), newAdminReset(s), newAdminGrant(s), newAdminEnd(s), newAdminReload(s), newAdminDrain(s)} {
		c.Flags().SortFlags = false
		cmd.AddCommand(c)
	}
	return cmd
}

// changeFlags declares the flags of changes.
func (c *apiCall) changeFlags(cmd *cobra.Command) {
	c.stringFlag(cmd, "request-id", "id of the change, which is made once; empty means a random id")
	c.connectionFlags(cmd)
}

// limitFlags declares the flags that choose limits of a key.
func (c *apiCall) limitFlags(cmd *cobra.Command) {
	c.stringFlag(cmd, "tier", "tier of the full key, if calls name it; empty means the tier that the policy assigns")
	c.stringFlag(cmd, "model", "model whose limits per model are meant")
}

// change posts a change, with a request id that the hint of an error can name.
func (c *apiCall) change(cmd *cobra.Command, path string, print func([]byte) error) error {
	if c.body["request_id"] == nil {
		c.body["request_id"] = "admin-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	c.hint = fmt.Sprintf("the same command with --request-id %s: a change is made once", c.body["request_id"])
	text, err := json.Marshal(c.body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	var failed error
	err = c.do(cmd, http.MethodPost, path, text, func(_ *remoteService, a *responseRecorder) { failed = print(a.body.Bytes()) })
	return cmp.Or(err, failed)
}

// printing returns a function that decodes an answer and prints it.
func printing[T any](print func(*T)) func([]byte) error {
	return func(text []byte) error {
		var answer T
		if err := json.Unmarshal(text, &answer); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		print(&answer)
		return nil
	}
}

func newAdminKey(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key KEY",
		Short: "Show the state of a key",
		Long: `Show all limits of all levels of a key with what is used, lent and left of credits, the
member that owns it and its heir, the slices that are lent, how many request ids are
remembered, and running reservations of the key and of keys below it.

A reservation is shown by a reference, which takes the place of its request id in
"bucketring admin end": nodes keep a digest of the id only. SINCE is the time since the
reservation was made, or since its last report of progress. The ones that were renewed
longest ago come first.`,
		Example: `  bucketring admin key acme/alice
  bucketring admin key acme --reservations 1000 -o json
  bucketring admin key acme/alice --model llama-3-70b`,
		Args: exactArgs("KEY"),
	}
	c := newAPICall(s)
	c.limitFlags(cmd)
	most := cmd.Flags().Int("reservations", 100, "number of reservations to list, at most 1000")
	c.connectionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		query := url.Values{"key": {args[0]}, "reservations": {strconv.Itoa(*most)}}
		for name, value := range c.body {
			query.Set(name, fmt.Sprint(value))
		}
		var failed error
		show := printing(s.printKeyState)
		err := c.do(cmd, http.MethodGet, "/v1/admin/key?"+query.Encode(), nil, func(_ *remoteService, a *responseRecorder) { failed = show(a.body.Bytes()) })
		return cmp.Or(err, failed)
	}
	return cmd
}

// units formats an amount in a dimension.
func units(dimension string, n int64) string {
	return formatAmount(&pb.LimitState{Dimension: dimension}, n)
}

func (s *streams) printKeyState(k *httpapi.KeyState) {
	s.printf("%s  tier %s  owner %s  heir %s  partition %d  term %d\n", k.Key, cmp.Or(k.Tier, "-"), cmp.Or(k.Owner, "-"), cmp.Or(k.Heir, "-"), k.Partition, k.Term)
	s.printf("running reservations %s  lent slices %d  request ids remembered under the root %s\n\n", amount.Group(k.Running), len(k.Slices), amount.Group(k.RequestIDs))
	if len(k.Limits) == 0 {
		s.printf("no limits apply\n")
	} else {
		s.printKeyLimits(k.Limits)
	}
	if len(k.Reservations) > 0 {
		s.printf("\n")
		s.printRunning(k.Reservations)
		if more := k.Running - int64(len(k.Reservations)); more > 0 {
			s.printf("and %s more\n", amount.Group(more))
		}
	}
	if len(k.Slices) > 0 {
		s.printf("\n")
		row, flush := s.columns("SLICE OF", "HOLDER", "CALLS", "LEASE")
		defer flush()
		for _, l := range k.Slices {
			row(l.Key, l.Holder, amount.Group(l.Calls), fromSeconds(l.LeaseSeconds))
		}
	}
}

func fromSeconds(n float64) string { return formatDuration(time.Duration(n * float64(time.Second))) }

func (s *streams) printKeyLimits(limits []httpapi.KeyLimit) {
	row, flush := s.columns("LIMIT", "SCOPE", "USED", "OF", "DEBT", "LENT", "CREDIT", "CREDIT ENDS")
	defer flush()
	for i := range limits {
		l := &limits[i]
		name := l.Name
		if name != l.Dimension {
			name += " (" + l.Dimension + ")"
		}
		if l.PerModel {
			name += " per model"
		}
		if l.Shadow {
			name += " shadow"
		}
		orDash := func(n int64) string {
			if n == 0 {
				return "-"
			}
			return units(l.Dimension, n)
		}
		row(name, l.Scope, units(l.Dimension, l.Used), units(l.Dimension, l.Capacity), orDash(l.Debt), orDash(l.Lent), orDash(l.Credit), cmp.Or(l.CreditEnds, "-"))
	}
}

func (s *streams) printRunning(list []httpapi.RunningReservation) {
	row, flush := s.columns("RESERVATION", "KEY", "SINCE", "LEASE", "CHARGED")
	defer flush()
	for i := range list {
		r := &list[i]
		var charges []string
		for _, c := range r.Charges {
			if c.Scope == r.Key && c.Charged > 0 {
				charges = append(charges, c.Limit+" "+units(c.Dimension, c.Charged))
			}
		}
		row(r.Ref, r.Key, fromSeconds(r.SinceSeconds), fromSeconds(r.LeaseSeconds), cmp.Or(strings.Join(charges, ", "), "-"))
	}
}

// printChanged prints what a change did. verb is in the past.
func (s *streams) printChanged(verb string, c *httpapi.Changed) {
	s.printf("%s  owner %s  request %s", s.colorize(green, verb), c.Owner, c.RequestID)
	if c.Replayed {
		s.printf("  (repeated answer)")
	}
	s.printf("\n")
	if len(c.Limits) == 0 {
		return
	}
	row, flush := s.columns("LIMIT", "SCOPE", "BEFORE", "AFTER", "ENDS")
	defer flush()
	for _, l := range c.Limits {
		row(l.Name, l.Scope, units(l.Dimension, l.Before), units(l.Dimension, l.After), cmp.Or(l.CreditEnds, "-"))
	}
}

func newAdminReset(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset KEY",
		Short: "Make what is used of the limits of a key 0",
		Long: `Make what is used of the limits of a key 0: of one limit, or of all but those on
concurrent calls. The limits of its parents and of keys below it stay as they are, and so
do credits.

Reservations go on. What they were charged before is forgotten with the rest: when they
settle, they change the limit no more.`,
		Example: `  bucketring admin reset acme/alice
  bucketring admin reset acme/alice --limit tokens
  bucketring admin reset acme --limit spend --request-id ticket-4711`,
		Args: exactArgs("KEY"),
	}
	c := newAPICall(s)
	c.stringFlag(cmd, "limit", "name of a limit, or a dimension such as tokens; empty means all")
	c.limitFlags(cmd)
	c.changeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.body["key"] = args[0]
		return c.change(cmd, "/v1/admin/reset", printing(func(a *httpapi.Changed) { s.printChanged("reset", a) }))
	}
	return cmd
}

func newAdminGrant(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grant KEY --limit NAME --amount N",
		Short: "Give a limit of a key a one-off credit",
		Long: `Give a limit of a key a one-off credit: an amount beside the limit. A call takes from it
what the limit has no room for, and gives back what it did not use when it settles. A
credit does not refill.

It lasts until the end of the current window if the limit has a fixed window, such as a
day or a month, and for 24 hours otherwise, or as long as --for says. Another grant adds
to what is left, and then the later end counts. Limits on concurrent calls have no credits.`,
		Example: `  bucketring admin grant acme/alice --limit spend --amount '$5'
  bucketring admin grant acme/alice --limit tokens --amount 500_000 --for 2h
  bucketring admin grant acme --limit requests --amount 1000 --request-id ticket-4711`,
		Args: exactArgs("KEY"),
	}
	c := newAPICall(s)
	c.stringFlag(cmd, "limit", "name of a limit, or a dimension such as tokens")
	units := cmd.Flags().String("amount", "", "amount, such as 500_000, or '$5' for spend")
	cmd.Flags().Var(&fieldFlag{body: c.body, field: "lasts_seconds", kind: "duration"}, "for", "how long the credit lasts, such as 2h")
	c.limitFlags(cmd)
	c.changeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		limit, _ := c.body["limit"].(string)
		if limit == "" {
			return usageError(cmd, errors.New("missing flag --limit"), "")
		}
		if *units == "" {
			return usageError(cmd, errors.New("missing flag --amount"), "")
		}
		dimension := limiter.Dimension(limit)
		if strings.HasPrefix(*units, "$") { // the limit may have another name than what it counts
			dimension = limiter.Spend
		}
		n, err := policy.ParseAmount(dimension, *units)
		if err != nil {
			return usageError(cmd, fmt.Errorf("--amount: %w, got %q", err, *units), "")
		}
		c.body["key"], c.body["amount"] = args[0], n
		return c.change(cmd, "/v1/admin/grant", printing(func(a *httpapi.Changed) { s.printChanged("granted", a) }))
	}
	return cmd
}

func newAdminEnd(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "end KEY RESERVATION",
		Short: "End a reservation and free its slots",
		Long: `End a reservation, named by its request id or by a reference of "bucketring admin key",
and free its slots. It is charged:

  progress   the input or the reported progress, whichever is more, as at the end of a
             lease; if its settle comes later, that corrects the charge
  estimate   what is charged now; if its settle comes later, that corrects the charge
  nothing    nothing: the reservation is cancelled, and a later settle is refused

The call itself does not end: the model server does not know of it.`,
		Example: `  bucketring admin end acme/alice ref:3f1c0a52b7d94e61c08d27aa
  bucketring admin end acme/alice req-17 --charge nothing`,
		Args: exactArgs("KEY", "RESERVATION"),
	}
	c := newAPICall(s)
	c.choiceFlag(cmd, "charge", "%s (default progress)", "progress", "estimate", "nothing")
	c.changeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.body["key"], c.body["reservation"] = args[0], args[1]
		return c.change(cmd, "/v1/admin/end", printing(func(a *httpapi.Changed) { s.printChanged(cmp.Or(a.Status, "ended"), a) }))
	}
	return cmd
}

func newAdminReload(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have a node read its files again",
		Long: `Have a node read its policy, its rules for Envoy, its cluster keys and its JWT keys again,
as SIGHUP does. What is invalid changes nothing. Exits with 1 if something was not read.`,
		Example: `  bucketring admin reload
  bucketring admin reload --server 127.0.0.1:6481 -o json`,
		Args: exactArgs(),
	}
	c := newAPICall(s)
	c.changeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var problems []string
		show := printing(func(a *httpapi.Reloaded) {
			if problems = a.Problems; len(problems) == 0 {
				s.printf("%s  %s  policy %.12s\n", s.colorize(green, "reloaded"), a.Member, a.PolicyDigest)
			}
		})
		if err := c.change(cmd, "/v1/admin/reload", show); err != nil {
			return err
		}
		if len(problems) > 0 {
			return errorWithHint(errors.New(strings.Join(problems, "\n")), "bucketring policy check, for the policy; what is invalid was left as it was")
		}
		return nil
	}
	return cmd
}

func newAdminDrain(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Make a node unready and hand its keys over",
		Long: `Make a node unready, so that load balancers send it nothing, and hand its keys over to
the other members, as at shutdown. The node goes on answering, with the help of the new
owners. Stop it then: SIGTERM has nothing left to hand over.

A drain cannot be undone, not even while it goes on: a member that has said that it leaves
has no way back into the ring but a restart, which is a new run of it.

The command waits until all keys are handed over, and exits with 1 if that takes longer
than --wait.`,
		Example: `  bucketring admin drain
  bucketring admin drain --wait 2m`,
		Args: exactArgs(),
	}
	c := newAPICall(s)
	wait := cmd.Flags().Duration("wait", time.Minute, "time to wait until all keys are handed over")
	c.changeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), *wait)
		defer cancel()
		for {
			var answer httpapi.Drained
			if err := c.change(cmd, "/v1/admin/drain", printing(func(a *httpapi.Drained) { answer = *a })); err != nil {
				return err
			}
			if answer.Drained || *c.output == formatJSON {
				if *c.output != formatJSON {
					s.printf("%s  %s  %s\n", s.colorize(green, "drained"), answer.Member, answer.Message)
				}
				return nil
			}
			select {
			case <-ctx.Done():
				return errorWithHint(errors.New(answer.Message), "the same command again: the node goes on")
			case <-time.After(drainPause):
			}
		}
	}
	return cmd
}

// drainPause is the time between two looks at a node that is drained.
const drainPause = 500 * time.Millisecond
