// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// readyWait bounds the time until a new cluster answers.
const readyWait = 20 * time.Second

// Run runs the campaigns, one after the other. If one fails, or ctx is done, it returns the
// results so far, of which the last may be incomplete, and the error. A broken promise is no
// error.
func Run(ctx context.Context, o Options) (*Document, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	d := &Document{FormatVersion: 1, Started: time.Now().UTC().Truncate(time.Second), RatePerSecond: o.Rate, Seed: o.Seed, OK: true}
	for _, c := range o.Campaigns {
		result, err := runCampaign(ctx, &o, c)
		if result != nil && len(result.Iterations) > 0 {
			result.judge()
			d.Campaigns = append(d.Campaigns, *result)
			d.OK = d.OK && result.OK
		}
		if err != nil {
			d.OK = false
			return d, fmt.Errorf("%s: %w", c, err)
		}
	}
	return d, nil
}

// usageTarget is a target whose usage can be read.
type usageTarget interface {
	bench.Target
	bench.UsageReader
}

// campaignRun is a campaign in progress.
type campaignRun struct {
	options  *Options
	campaign Campaign
	policy   *policy.Policy
	network  *local.Network // nil unless the network is cut
	cluster  *local.Cluster
	target   usageTarget
	ingress  func(id string) int // nil: unknown
}

func runCampaign(ctx context.Context, o *Options, c Campaign) (result *Result, err error) {
	r := &campaignRun{options: o, campaign: c}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	result = &Result{Name: c.String(), Kind: c.Kind, Nodes: c.Nodes}
	for n := range c.Count {
		it, err := r.iterate(ctx, n)
		if err != nil {
			return result, fmt.Errorf("iteration %d: %w", n+1, err)
		}
		result.Iterations = append(result.Iterations, *it)
		o.Log(fmt.Sprintf("%s: %d of %d: %s", c, n+1, c.Count, it))
	}
	return result, nil
}

// start starts the cluster and connects to it.
func (r *campaignRun) start(ctx context.Context) error {
	c, o := r.campaign, r.options
	text := policyText(r.scale())
	if o.Waiters {
		text = waiterPolicy
	}
	var err error
	if r.policy, err = policy.Parse("policy.yaml", []byte(text), limiter.NewCatalog()); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	options := local.Options{Nodes: c.Nodes, Binary: o.Binary, PolicyText: text, Persist: c.Kind == FullKill, ExtraArgs: o.NodeArgs}
	if o.Dir != "" {
		options.Dir = filepath.Join(o.Dir, strings.NewReplacer(" ", "-", "|", "-").Replace(c.String()))
	}
	if c.Kind == Split {
		if r.network, err = local.NewNetwork(c.Nodes); err != nil {
			return err
		}
		options.Network = r.network
		options.ExtraArgs = append([]string{"--insecure"}, options.ExtraArgs...)
	}
	o.Log(fmt.Sprintf("%s: starting the nodes", c))
	if r.cluster, err = local.Start(context.WithoutCancel(ctx), options); err != nil {
		return err
	}
	return r.connect(ctx)
}

// connect opens the target and waits until it answers.
func (r *campaignRun) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	if r.campaign.Kind == Split {
		each, err := openEachNode(r.cluster.GRPCAddrs())
		if err != nil {
			return err
		}
		r.target, r.ingress = each, each.ingress
		return each.ready(ctx)
	}
	t, err := target.Open("client:"+strings.Join(r.cluster.GRPCAddrs(), ","), target.Options{})
	if err != nil {
		return err
	}
	r.target = t.(usageTarget) // client: targets implement it
	return target.Ready(ctx, t)
}

// maxScale keeps every charge of a tier other than small at 1 % of a limit or more.
const maxScale = 3

// scale makes limits larger for faults that last longer.
func (r *campaignRun) scale() int {
	length := 15 * time.Second
	if r.campaign.Kind == Split {
		length = faultAt + r.options.SplitFor + 10*time.Second
	}
	return int(min(max(1, length/(15*time.Second)), maxScale))
}

// inject causes the fault.
func (r *campaignRun) inject(ctx context.Context, victim int, start time.Time) (*fault, error) {
	if r.network != nil {
		return injectSplit(ctx, r.cluster, r.network, r.campaign, victim, r.options.SplitFor, start)
	}
	return injectProcessFault(ctx, r.cluster, r.campaign, victim, start)
}

func (r *campaignRun) close() error {
	var problems []error
	if r.target != nil {
		problems = append(problems, r.target.Close())
	}
	if r.cluster != nil {
		problems = append(problems, r.cluster.Stop())
	}
	if r.network != nil {
		problems = append(problems, r.network.Close())
	}
	return errors.Join(problems...)
}
