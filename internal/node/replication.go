// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/replication"
)

// newReplication returns the host of the ownership protocol, which decides nothing yet.
func (n *Node) newReplication() (*replication.Host, error) {
	h, err := replication.New(replication.Options{
		Name: n.config.Name, Boot: runNumber(n.boot), Engine: n.replicatedEngine(), Now: n.now,
		Keys: n.keys.current, Credentials: n.memberCredentials, Certify: n.certify,
		Changed: func(int, continuity.Arrangement, continuity.Role) { n.router.OwnersChanged() },
		Report:  func(repay continuity.Repay) { n.router.Report(repay) },
		Logger:  n.log, Registry: n.registry,
	})
	if err != nil || n.journal == nil {
		return h, err
	}
	for p := range limiter.Partitions {
		if c, ok := n.journal.Restored(p); ok {
			h.Restored(p, continuity.Copy{Origin: c.Origin, Seq: c.Seq, Complete: c.Complete})
		}
	}
	return h, nil
}

// runNumber returns the number of a run of a member, which is greater in each later run.
func runNumber(b cluster.Boot) uint64 { return uint64(b.Started.UnixNano()) }

// emptyWait is how long a node that holds nothing any more waits until the others have taken
// it off the roster. They do not while an older boot of it may still run.
const emptyWait = 5 * time.Second

// handOver waits until other members have everything that this one holds, and have taken
// it off the roster. It logs what could not be handed over in time.
func (n *Node) handOver(ctx context.Context) {
	start := time.Now()
	empty := start // since when it holds nothing
	poll := time.NewTicker(formationPoll)
	defer poll.Stop()
	for waiting := true; waiting; {
		select {
		case <-n.replication.Left():
			n.log.Info("handed over", "duration", time.Since(start).Round(time.Millisecond))
			return
		case <-poll.C:
			if !n.othersStay() {
				n.log.Info("nobody stays to take over: what is not on disk is lost")
				return
			}
			if s, err := n.replication.Status(ctx); err != nil || s.Owned+s.Heir+s.Journals > 0 {
				empty = time.Now()
			} else if time.Since(empty) >= emptyWait {
				n.log.Warn("handed over, but the others still count this node: until they forget it, no other one may be lost", "duration", time.Since(start).Round(time.Millisecond))
				return
			}
		case <-ctx.Done():
			waiting = false
		}
	}
	short, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := n.replication.Status(short)
	n.log.Error("not everything was handed over in time: members that have copies take over, and other charges are lost",
		"timeout", n.config.HandoverTimeout, "partitions_owned", s.Owned, "copies", s.Heir, "error", err)
}

// ReplicationStatus says who holds the state of partitions, as this node knows it.
type ReplicationStatus struct {
	// Safe: if any one member is lost now, the others take over with all its charges.
	// Otherwise NotSafe says why not.
	Safe    bool   `json:"safe"`
	NotSafe string `json:"not_safe,omitempty"`
	// Roster are the members whose votes count. Voter: that of this node does.
	Roster []string `json:"roster"`
	Voter  bool     `json:"voter"`
	// Owned are the partitions whose owner this node is, see Fenced, and Copies those whose heir
	// it is. Roles counts all partitions by the role of this node.
	Owned  int            `json:"partitions_owned"`
	Copies int            `json:"partitions_copied"`
	Roles  map[string]int `json:"roles"`
	// Of all partitions: those without an owner or an heir, those whose heir has no complete
	// copy yet, and those that are to get another owner.
	WithoutOwner int `json:"without_owner"`
	WithoutHeir  int `json:"without_heir"`
	Copying      int `json:"copying"`
	Moving       int `json:"moving"`
	// LagMillis is for how long an heir of this node has lacked a charge, at most.
	LagMillis int64 `json:"lag_ms"`
	// Keys and IDs are the records and request ids in copies, beside those of the node's own
	// partitions.
	Keys int `json:"copied_keys"`
	IDs  int `json:"copied_request_ids"`
}

// statusWait bounds the wait for the status of replication.
const statusWait = time.Second

// risk returns the state of replication, and why no member may be lost now or "", when so
// many partitions are to get another owner.
func (n *Node) risk(moving int) (s replication.Status, whyNot string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), statusWait)
	defer cancel()
	s, err = n.replication.Status(ctx)
	whyNot = s.WhyNot
	for _, m := range n.cluster.View().Members {
		if whyNot == "" && m.State == cluster.Joining {
			whyNot = fmt.Sprintf("member %s is joining: partitions move to it next", m.Name)
		}
	}
	if whyNot == "" && moving > 0 {
		whyNot = fmt.Sprintf("%d partitions are moving to other members", moving)
	}
	return s, whyNot, err
}

// replicationStatus returns the status of replication and its streams to other members, or
// nothing if replication does not answer.
func (n *Node) replicationStatus(moving int, stats *limiter.Stats) (r *ReplicationStatus, links map[continuity.ID]*ReplicationLink) {
	s, whyNot, err := n.risk(moving)
	if err != nil {
		return nil, nil
	}
	links = map[continuity.ID]*ReplicationLink{}
	for _, m := range s.Members {
		links[m.ID] = &ReplicationLink{Connected: m.Connected, Problem: m.Problem}
	}
	r = &ReplicationStatus{
		Safe: whyNot == "", NotSafe: whyNot, Roster: s.Roster.Names, Voter: s.Voter, Owned: s.Owned, Copies: s.Heir, Roles: map[string]int{},
		WithoutOwner: s.WithoutOwner, WithoutHeir: s.WithoutHeir, Copying: s.Copying, Moving: moving, LagMillis: s.Lag.Milliseconds(),
		Keys: stats.CopiedKeys, IDs: stats.CopiedIDs,
	}
	for role, count := range s.Roles {
		r.Roles[role.String()] = count
	}
	return r, links
}

// Fenced returns for how many of the partitions that it owns this node has no lease, so that it
// decides nothing for them.
func (r *ReplicationStatus) Fenced() int { return r.Roles[continuity.Fenced.String()] }

// Safe returns nil if any one member may be lost now, or restarted, without the loss of a
// charge, and otherwise why not.
func (n *Node) Safe() error {
	_, whyNot, err := n.risk(n.router.Status().Moving)
	switch {
	case err != nil:
		return errors.New("the state of replication is not known")
	case whyNot != "":
		return errors.New(whyNot)
	}
	return nil
}
