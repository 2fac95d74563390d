// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/waittest"
)

// refused fails unless an order was refused for a reason.
func refused(t testing.TB, err error, reason string) {
	t.Helper()
	if r, ok := errors.AsType[*RefusedError](err); !ok || !strings.Contains(r.Reason, reason) {
		t.Errorf("Forget() = %v, want a refusal: %q", err, reason)
	}
}

// forget gives the order until it is not refused any more, since others must notice first
// that the member is gone.
func (m *member) forget(name string, force bool) (f Forgotten) {
	m.t.Helper()
	waittest.Until(m.t, m.name+" to forget "+name, func() bool {
		var err error
		if f, err = m.Forget(m.t.Context(), name, force); err == nil {
			return f.Done
		}
		refused(m.t, err, "answered a ping")
		return false
	})
	return f
}

// decided reports whether each partition has exactly one member that decides.
func (c *cluster) decided() bool {
	for p := range c.partitions {
		if len(c.deciders(p)) != 1 {
			return false
		}
	}
	return true
}

func newDirectCluster(t *testing.T, names ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, partitions: 64, protocol: continuity.Defaults(64), direct: true}
	c.begin(names...)
	c.settle()
	return c
}

// TestForgottenMemberDoesNotCount: of four members, two may be lost one after the other, if
// the first is forgotten before. Any member takes the order.
func TestForgottenMemberDoesNotCount(t *testing.T) {
	c := newDirectCluster(t, "a", "b", "c", "d")
	b := c.members["b"]
	_, err := b.Forget(t.Context(), "d", true)
	refused(t, err, "answered a ping")
	_, err = b.Forget(t.Context(), "b", true)
	refused(t, err, "the node that was asked")
	_, err = b.Forget(t.Context(), "e", true)
	if u, ok := errors.AsType[*UnknownMemberError](err); !ok || !slices.Equal(u.Known, []string{"a", "b", "c", "d"}) {
		t.Errorf("Forget(e) = %v, want the error of an unknown member among a to d", err)
	}
	if s, err := b.Status(t.Context()); err != nil || s.Roster.Epoch != 1 {
		t.Errorf("the roster is %v after refusals, %v, want the first", s.Roster, err)
	}

	c.remove("d")
	if f := b.forget("d", true); f.Forced || !slices.Equal(f.Roster.Names, []string{"a", "b", "c"}) || f.Answering != 3 {
		t.Errorf("Forget(d) = %+v, want a, b and c, that answer, by votes", f)
	}
	if f, err := b.Forget(t.Context(), "d", false); err != nil || !f.Done || f.Roster.Epoch != 2 {
		t.Errorf("Forget(d) again = %+v, %v, want no change", f, err)
	}
	c.show()
	c.settle()
	c.remove("c")
	c.show()
	waittest.Until(t, "two of three to decide", c.decided)
}

// TestForgetWithoutMajority: two of four members decide nothing for the keys of the others,
// until one of the lost ones is forgotten without votes.
func TestForgetWithoutMajority(t *testing.T) {
	c := newDirectCluster(t, "a", "b", "c", "d")
	a := c.members["a"]
	c.remove("d")
	stalled := c.members["c"] // its process has one port left
	stalled.cancel()
	stalled.grpc.Stop()
	waittest.Until(t, "partitions without an owner that decides", func() bool { return len(c.deciders(0)) == 0 || !c.decided() })
	waittest.Until(t, "a to miss c", func() bool {
		_, err := a.Forget(t.Context(), "c", false)
		return err != nil && !strings.Contains(err.Error(), "answered a ping") && !strings.Contains(err.Error(), "accepts connections")
	})
	_, err := a.Forget(t.Context(), "c", false)
	refused(t, err, "2 of 4 members answer, and the votes of 3 are needed")
	_, err = a.Forget(t.Context(), "c", true)
	refused(t, err, "c accepts connections at "+stalled.address.Gossip)

	c.remove("c")
	c.show()
	if f := a.forget("d", true); !f.Forced || !slices.Equal(f.Roster.Names, []string{"a", "b", "c"}) || f.Answering != 2 {
		t.Errorf("Forget(d) = %+v, want a, b and c, of which two answer, without votes", f)
	}
	waittest.Until(t, "two of three to decide", c.decided)
	if f := a.forget("c", true); f.Forced || !slices.Equal(f.Roster.Names, []string{"a", "b"}) {
		t.Errorf("Forget(c) = %+v, want a and b, by votes: there is a majority again", f)
	}
}
