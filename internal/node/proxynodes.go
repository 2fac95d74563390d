// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/tlserror"
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
	switch reason := whyNoNode(s.Err); {
	case s.Following:
		return nil
	case s.Source == "":
		return errors.New("no node of the cluster answers: " + reason)
	default:
		return fmt.Errorf("no node of the cluster answers: %s: %s", s.Source, reason)
	}
}

// whyNoNode returns the message of an error of the connection to a node, and what to do.
func whyNoNode(err error) string {
	reason := status.Convert(err).Message()
	if hint := tlserror.RemedyOf(reason); hint != "" && !strings.Contains(reason, hint) {
		reason += "; " + hint
	}
	return reason
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
			p.log.Warn("no node of the cluster answers", "server", s.Source, "error", whyNoNode(s.Err))
		}
	}
}
