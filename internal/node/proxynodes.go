// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/tlsfiles"
)

// nodesEvery is the time between two looks whether nodes answer a proxy that runs alone.
const nodesEvery = time.Second

// missedLooks is after how many looks without an answer this is logged: one may fall between
// the end of a node and the next one.
const missedLooks = 3

// NodesAnswer returns nil if a node answers the proxy, and otherwise why none does, and what
// to do.
func (p *Proxy) NodesAnswer() error {
	s := p.client.Status()
	if s.Following {
		return nil
	}
	return noNode(s.Source, s.Err)
}

// noNodeError says why no node answers.
type noNodeError struct {
	server, reason string
	err            error
}

func (e *noNodeError) Error() string { return "no node of the cluster answers: " + e.detail() }
func (e *noNodeError) Unwrap() error { return e.err }

func (e *noNodeError) detail() string {
	if e.server == "" {
		return e.reason
	}
	return e.server + ": " + e.reason
}

func noNode(server string, err error) *noNodeError {
	reason := status.Convert(err).Message()
	if hint := tlsfiles.Remedy(err); hint != "" && !strings.Contains(reason, hint) {
		reason += "; " + hint
	}
	return &noNodeError{server, reason, err}
}

// WatchNodes logs when no node answers any more, for which reason, and when one does again,
// until ctx is done. It is for a proxy that runs alone.
func (p *Proxy) WatchNodes(ctx context.Context) error {
	tick := time.NewTicker(nodesEvery)
	defer tick.Stop()
	missed := 0 // looks
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s := p.client.Status()
		if s.Following {
			if missed >= missedLooks {
				p.log.Info("a node of the cluster answers", "server", s.Source)
			}
			missed = 0
			continue
		}
		if missed++; missed == missedLooks {
			none := noNode(s.Source, s.Err)
			p.log.Warn("no node of the cluster answers", "server", none.server, "error", none.reason)
		}
	}
}
