// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

const (
	pollInterval   = 50 * time.Millisecond
	statusTimeout  = 2 * time.Second // of one request
	maxStatusBytes = 8 << 20
)

// status is the part of GET /status that is used here.
type status struct {
	Name     string
	Ready    bool
	NotReady string `json:"not_ready"`
	Cluster  struct {
		Label   string
		Boot    string
		Ring    string `json:"ring_digest"`
		Members []struct {
			Name       string
			Boot       string
			Partitions int
		}
	}
}

// ringBoots returns the boot ids of the members that own partitions.
func (s *status) ringBoots() (boots []string) {
	for _, m := range s.Cluster.Members {
		if m.Partitions > 0 {
			boots = append(boots, m.Boot)
		}
	}
	return boots
}

// inRing reports whether a boot id owns partitions.
func (s *status) inRing(boot string) bool { return slices.Contains(s.ringBoots(), boot) }

// fetchStatus returns the status of a node. It fails if another node answers.
func (c *Cluster) fetchStatus(ctx context.Context, n *node) (*status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	at := n.listenPorts()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.address(at.http)+"/status", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s does not answer: %w", n.name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered with status %s", n.name, resp.Status)
	}
	var s status
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatusBytes)).Decode(&s); err != nil {
		return nil, fmt.Errorf("decode the status of %s: %w", n.name, err)
	}
	if s.Name != n.name || s.Cluster.Label != c.label {
		return nil, fmt.Errorf("want %s at %s, got %s of cluster %s", n.name, at.address(at.http), s.Name, s.Cluster.Label)
	}
	return &s, nil
}

// awaitReady waits until a child is ready.
func (c *Cluster) awaitReady(ctx context.Context, n *node, ch *child) error {
	err := poll(ctx, func() error {
		if ch.ended() {
			return nil // an answer would be from another process
		}
		s, err := c.fetchStatus(ctx, n)
		switch {
		case err != nil:
			return err
		case !s.Ready:
			return fmt.Errorf("%s is not ready: %s", n.name, s.NotReady)
		}
		n.ready(ch, s.Cluster.Boot)
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("%w%s", err, ch.tail())
	case ch.ended():
		return startError(n, ch)
	}
	return nil
}

// awaitRing waits until all running nodes have the same ring and satisfy want. Nodes
// that are paused or starting are ignored.
func (c *Cluster) awaitRing(ctx context.Context, want func(*status) error) error {
	return poll(ctx, func() error {
		first := ""
		for _, n := range c.allNodes() {
			_, boot, ok := n.runningChild()
			if !ok {
				continue
			}
			s, err := c.fetchStatus(ctx, n)
			switch {
			case err != nil:
				return err
			case s.Cluster.Boot != boot:
				return fmt.Errorf("%s was restarted", n.name)
			}
			if err := want(s); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
			if first == "" {
				first = s.Cluster.Ring
			}
			if s.Cluster.Ring != first {
				return fmt.Errorf("the nodes have different rings: %s has %s, others have %s", n.name, s.Cluster.Ring, first)
			}
		}
		return nil
	})
}

// AwaitOneRing waits until all running nodes are ready and have the same ring, of exactly
// that many members. The error says what was different when ctx was done.
func (c *Cluster) AwaitOneRing(ctx context.Context, members int) error {
	return c.awaitRing(ctx, ringSize(members))
}

// ringLacks is satisfied by a ring without a boot id.
func ringLacks(boot string) func(*status) error {
	return func(s *status) error {
		if s.inRing(boot) {
			return errors.New("the ring still has a node that left")
		}
		return nil
	}
}

// ringHas is satisfied by a ring with a boot id.
func ringHas(boot string) func(*status) error {
	return func(s *status) error {
		switch {
		case !s.Ready:
			return fmt.Errorf("not ready: %s", s.NotReady)
		case !s.inRing(boot):
			return errors.New("the ring lacks a node that is ready")
		}
		return nil
	}
}

// ringSize is satisfied by a ring of exactly that many members.
func ringSize(members int) func(*status) error {
	return func(s *status) error {
		if got := len(s.ringBoots()); !s.Ready || got != members {
			return fmt.Errorf("its ring has %d members, want %d", got, members)
		}
		return nil
	}
}

// poll calls try until it returns nil. When ctx is done it returns the last error that
// ctx did not cause.
func poll(ctx context.Context, try func() error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	began := time.Now()
	var last error
	for {
		err := try()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s: %w (%w)", time.Since(began).Round(time.Millisecond), last, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}
