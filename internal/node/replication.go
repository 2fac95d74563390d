// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/replication"
)

// newReplication returns the host of the ownership protocol, which decides nothing yet.
func (n *Node) newReplication() (*replication.Host, error) {
	h, err := replication.New(replication.Options{
		Name: n.config.Name, Boot: runNumber(n.boot), Engine: n.replicatedEngine(), Now: n.now,
		Keys: n.keys.current, Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
		Changed: func(int, continuity.Arrangement, continuity.Role) { n.router.OwnersChanged() },
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

// runReplication runs the host until its context is done. It ends before the servers, whose
// streams would not end otherwise, but after the partitions are handed over.
type replicationRun struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func startReplication(h *replication.Host) *replicationRun {
	ctx, cancel := context.WithCancel(context.Background())
	r := &replicationRun{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = h.Run(ctx)
	}()
	return r
}

// stop ends the host. It may be called again.
func (r *replicationRun) stop() error {
	r.cancel()
	<-r.done
	return r.err
}

// handOver waits until other members have everything that this one holds, and have taken
// it off the roster. It logs what could not be handed over in time.
func (n *Node) handOver(ctx context.Context) {
	start := time.Now()
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
