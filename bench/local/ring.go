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
	// pollEvery is the time between two looks at nodes that are waited for.
	pollEvery = 50 * time.Millisecond
	// askTimeout is how long a node may take to say how it is.
	askTimeout = 2 * time.Second
	// maxStatus is more than any node says.
	maxStatus = 8 << 20
)

// status is what is read of GET /status.
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

// ring returns the boots of the members that own partitions.
func (s *status) ring() (boots []string) {
	for _, m := range s.Cluster.Members {
		if m.Partitions > 0 {
			boots = append(boots, m.Boot)
		}
	}
	return boots
}

// has reports whether a boot owns partitions.
func (s *status) has(boot string) bool { return slices.Contains(s.ring(), boot) }

// look asks a node how it is. An answer of anybody else is an error.
func (c *Cluster) look(ctx context.Context, n *node) (*status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address(n.at().http)+"/status", nil)
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
		return nil, fmt.Errorf("%s answers with %s", n.name, resp.Status)
	}
	var s status
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatus)).Decode(&s); err != nil {
		return nil, fmt.Errorf("read the status of %s: %w", n.name, err)
	}
	if s.Name != n.name || s.Cluster.Label != c.label {
		return nil, fmt.Errorf("%s is not at %s, but %s of the cluster %s", n.name, address(n.at().http), s.Name, s.Cluster.Label)
	}
	return &s, nil
}

// awaitReady waits until a child is.
func (c *Cluster) awaitReady(ctx context.Context, n *node, ch *child) error {
	err := poll(ctx, func() error {
		if ch.ended() {
			return nil // an answer now would be of another cluster
		}
		s, err := c.look(ctx, n)
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
		return endedEarly(n, ch)
	}
	return nil
}

// awaitRing waits until the nodes that run have the same ring, and each finds
// it as wanted. Those that are paused or start at that time are not asked.
func (c *Cluster) awaitRing(ctx context.Context, want func(*status) error) error {
	return poll(ctx, func() error {
		first := ""
		for _, n := range c.all() {
			_, boot, ok := n.up()
			if !ok {
				continue
			}
			s, err := c.look(ctx, n)
			switch {
			case err != nil:
				return err
			case s.Cluster.Boot != boot:
				return fmt.Errorf("%s was started again", n.name)
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

// lacks wants a ring without a boot.
func lacks(boot string) func(*status) error {
	return func(s *status) error {
		if s.has(boot) {
			return errors.New("the ring still names one that is gone")
		}
		return nil
	}
}

// has wants a ring with a boot.
func has(boot string) func(*status) error {
	return func(s *status) error {
		switch {
		case !s.Ready:
			return fmt.Errorf("not ready: %s", s.NotReady)
		case !s.has(boot):
			return errors.New("the ring does not name one that is ready")
		}
		return nil
	}
}

// numbers wants a ring of so many, and nobody else.
func numbers(members int) func(*status) error {
	return func(s *status) error {
		if got := len(s.ring()); !s.Ready || got != members {
			return fmt.Errorf("its ring has %d members, not %d", got, members)
		}
		return nil
	}
}

// poll tries until there is no error. When ctx is done it returns the last one
// that ctx is not to blame for.
func poll(ctx context.Context, try func() error) error {
	ticker := time.NewTicker(pollEvery)
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
