// SPDX-License-Identifier: Apache-2.0

package handshake

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/pb"
)

// pipe connects the two sides of a handshake.
type pipe struct {
	messages chan *pb.PeerMessage
	answers  chan *pb.PeerAnswer
}

type callerEnd struct{ pipe }

func (e callerEnd) Send(m *pb.PeerMessage) error {
	e.messages <- m
	return nil
}

func (e callerEnd) Recv() (*pb.PeerAnswer, error) { return <-e.answers, nil }

type ownerEnd struct{ pipe }

func (e ownerEnd) Context() context.Context { return context.Background() }

func (e ownerEnd) Send(a *pb.PeerAnswer) error {
	e.answers <- a
	return nil
}

func (e ownerEnd) Recv() (*pb.PeerMessage, error) {
	m, ok := <-e.messages
	if !ok {
		return nil, errors.New("closed")
	}
	return m, nil
}

// TestVersions: two builds talk in the highest version that both understand, or both
// refuse, and the reason names both and says which one to upgrade.
func TestVersions(t *testing.T) {
	for _, tt := range []struct {
		caller, owner Versions
		want          uint32 // 0: both refuse
		upgrade       string // whom, as the caller says
	}{
		{Versions{1, 1}, Versions{1, 1}, 1, ""},
		{Versions{2, 1}, Versions{1, 1}, 1, ""},
		{Versions{1, 1}, Versions{2, 1}, 1, ""},
		{Versions{4, 2}, Versions{3, 1}, 3, ""},
		{Versions{2, 2}, Versions{1, 1}, 0, "upgrade o,"},
		{Versions{1, 1}, Versions{2, 2}, 0, "upgrade this member,"},
		{Versions{1, 1}, Versions{}, 0, "upgrade o,"},
		{Versions{}, Versions{1, 1}, 0, "upgrade this member,"},
	} {
		p := pipe{make(chan *pb.PeerMessage, 2), make(chan *pb.PeerAnswer, 2)}
		a, b := self("c", 1, key1), self("o", 2, key1)
		a.Versions, b.Versions = tt.caller, tt.owner
		type result struct {
			peer Peer
			err  error
		}
		owner := make(chan result, 1)
		go func() {
			peer, err := b.AsOwner(ownerEnd{p})
			owner <- result{peer, err}
		}()
		version, err := a.AsCaller(callerEnd{p}, Member{Name: "o", Boot: 2})
		close(p.messages)
		other := <-owner
		if version != tt.want || other.peer.Version != tt.want || (err == nil) != (tt.want != 0) || (other.err == nil) != (tt.want != 0) {
			t.Errorf("%v and %v = %d, %v and %d, %v, want %d", tt.caller, tt.owner, version, err, other.peer.Version, other.err, tt.want)
		}
		if tt.want != 0 {
			continue
		}
		for _, err := range []error{err, other.err} {
			if got := ResultOf(err); got != WrongVersion || !strings.Contains(err.Error(), tt.caller.String()) || !strings.Contains(err.Error(), tt.owner.String()) {
				t.Errorf("%v and %v: %v (%s), want both versions", tt.caller, tt.owner, err, got)
			}
		}
		if !strings.Contains(err.Error(), tt.upgrade) {
			t.Errorf("%v and %v: %v, want %q", tt.caller, tt.owner, err, tt.upgrade)
		}
	}
}

// TestThisBuildTalksToVersion1: until a change of minimumVersion says otherwise, and
// except with the tag that is for tests of that.
func TestThisBuildTalksToVersion1(t *testing.T) {
	if v, ok := Current().common(one); (!ok || v != 1) && Current().Minimum <= 1 {
		t.Errorf("%v and %v have no version in common", Current(), one)
	}
	if Current().Minimum > Current().Protocol {
		t.Errorf("versions %+v: the minimum is above the version", Current())
	}
}
