// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
)

// Forgotten is the answer to [Host.Forget].
type Forgotten struct {
	Roster continuity.Roster
	// Done: the member is not in the roster. Otherwise this member goes on asking the
	// others to vote for that, until the forgotten one answers; they do so once its ports
	// refuse connections, or it has not answered them for After.
	Done  bool
	After time.Duration
	// Forced: the roster was changed without votes.
	Forced bool
	// Answering counts the members of the roster that answer, this one included.
	Answering int
}

// UnknownMemberError says that a member is in no roster that this one has known. Known are
// the members that could be meant, sorted.
type UnknownMemberError struct {
	Name  string
	Known []string
}

func (e *UnknownMemberError) Error() string {
	return fmt.Sprintf("no member has the name %q; members are %s", e.Name, strings.Join(e.Known, ", "))
}

// RefusedError says why a member is not forgotten.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

const (
	forgetWait = 2 * time.Second // for the votes
	forgetPoll = 20 * time.Millisecond
)

// Forget takes a member off the roster that will not come back: its vote does not count any
// more, so that a majority of the others suffices. Members vote for that. With force, and
// only where votes cannot be had, this member decides it alone: if the other one, or a
// majority, runs somewhere out of reach, two members may then decide for the same keys.
//
// It is refused while the member answers, or one of its ports accepts connections: a
// [*RefusedError]. An unknown member is an [*UnknownMemberError]. To forget a former member
// again changes nothing. Any error means that nothing was changed, except that of ctx.
func (h *Host) Forget(ctx context.Context, name string, force bool) (Forgotten, error) {
	if name == h.self.Name {
		return Forgotten{}, &RefusedError{fmt.Sprintf("%s is the node that was asked: stop it, and ask another member", name)}
	}
	var address Address
	var done bool
	var refused error
	if err := h.inLoop(ctx, "forget "+name, func(l *loop) {
		if done = l.m.Former(name); !done {
			address, _, refused = l.mayForget(name, force)
		}
	}); err != nil {
		return Forgotten{}, err
	}
	if refused != nil {
		return Forgotten{}, refused
	}
	if !done {
		if open := firstOpen(ctx, address); open != "" {
			return Forgotten{}, &RefusedError{fmt.Sprintf("%s accepts connections at %s: something runs there; stop it first", name, open)}
		}
	}
	var f Forgotten
	if err := h.inLoop(ctx, "forget "+name, func(l *loop) {
		if done {
			return
		}
		var alone bool
		if _, alone, refused = l.mayForget(name, force); refused != nil {
			return
		}
		f.Forced = alone
		l.log.Warn("an operator has a member forgotten", "member", name, "without_votes", alone)
		l.step(continuity.Forget{Name: name, Force: alone})
	}); err != nil {
		return Forgotten{}, err
	}
	if refused != nil {
		return Forgotten{}, refused
	}
	for deadline := time.Now().Add(forgetWait); ; {
		if err := h.inLoop(ctx, "forget "+name, func(l *loop) {
			f.Roster, f.Answering = l.m.Roster(), l.m.Answering(l.clock())
		}); err != nil {
			return Forgotten{}, err
		}
		f.Done, f.After = !slices.Contains(f.Roster.Names, name), h.forgetAfter
		if f.Done || time.Now().After(deadline) {
			return f, nil
		}
		select {
		case <-ctx.Done():
			return f, fmt.Errorf("forget %s: %w", name, ctx.Err())
		case <-time.After(forgetPoll):
		}
	}
}

// mayForget returns where a member was, if it may be forgotten now, and whether that needs
// to be done without votes.
func (l *loop) mayForget(name string, force bool) (address Address, alone bool, err error) {
	now, roster := l.clock(), l.m.Roster()
	known := slices.Clone(roster.Names)
	for id, k := range l.links {
		known = append(known, id.Name)
		if id.Name == name {
			address = k.address
		}
	}
	slices.Sort(known)
	known = slices.Compact(known)
	if !slices.Contains(known, name) {
		return Address{}, false, &UnknownMemberError{Name: name, Known: known}
	}
	if l.m.Answers(name, now) {
		silence, _ := l.m.Silence(name, now)
		return Address{}, false, &RefusedError{fmt.Sprintf("%s answered a ping %s ago: it runs; stop it first", name, max(0, silence).Round(time.Millisecond))}
	}
	switch answering, needed := l.m.Answering(now), len(roster.Names)/2+1; {
	case len(roster.Names) == 0:
		return Address{}, false, &RefusedError{"the members have not agreed on who belongs to the cluster yet"}
	case !slices.Contains(roster.Names, name):
		return Address{}, false, &RefusedError{fmt.Sprintf("the vote of %s does not count yet: it has not joined", name)}
	case !slices.Contains(roster.Names, l.self.Name):
		return Address{}, false, &RefusedError{fmt.Sprintf("the node that was asked, %s, is not a member itself; ask one of %s", l.self.Name, strings.Join(roster.Names, ", "))}
	case answering < needed:
		alone, err = true, &RefusedError{fmt.Sprintf("%d of %d members answer, and the votes of %d are needed", answering, len(roster.Names), needed)}
	case !l.m.Voter():
		alone, err = true, &RefusedError{fmt.Sprintf("%s has restarted, and cannot vote before it knows the votes of enough others", l.self.Name)}
	}
	if alone && !force {
		return Address{}, true, err
	}
	return address, alone, nil
}

// firstOpen returns a port of a member that accepts connections, or "".
func firstOpen(ctx context.Context, a Address) string {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	ports := slices.DeleteFunc([]string{a.GRPC, a.Gossip}, func(port string) bool { return port == "" })
	results := make(chan string, len(ports)) // cap: nobody waits after the first that is open
	for _, port := range ports {
		go func() {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", port)
			if err != nil {
				results <- ""
				return
			}
			_ = conn.Close() // nothing was sent
			results <- port
		}()
	}
	for range ports {
		if open := <-results; open != "" {
			return open
		}
	}
	return ""
}
