// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

func (w *world) session(token string) *Session {
	w.t.Helper()
	ctx := w.GRPC(from(somewhere, nil), exchange, bearerOf(token))
	if err := w.Check(ctx); err != nil {
		w.t.Fatal(err)
	}
	ctx, s := w.Open(ctx, exchange)
	if SessionOf(ctx) != s {
		w.t.Error("the context has another session")
	}
	w.t.Cleanup(s.Close)
	return s
}

// A stream ends when its caller may not have it any more, and only then.
func TestSessions(t *testing.T) {
	w := newWorld(t, callersText())
	first, second, team, byJWT := w.session("gate-1"), w.session("gate-2"), w.session("team"), w.session(signed(t, jwtSecret, jwtClaims(nil)))
	ended := func() (list []bool) {
		for _, s := range []*Session{first, second, team, byJWT} {
			list = append(list, s.Err() != nil)
		}
		return list
	}
	want := func(what string, first, second, team, byJWT bool) {
		t.Helper()
		if got, want := fmt.Sprint(ended()), fmt.Sprint([]bool{first, second, team, byJWT}); got != want {
			t.Errorf("%s: ended = %s, want %s", what, got, want)
		}
	}
	want("at first", false, false, false, false)
	w.reload(strings.Replace(callersText(), hashOf("gate-1")+", ", "", 1))
	want("one token revoked", true, false, false, false)
	w.reload(strings.Replace(callersText(), "[acme, 'team-*']", "[globex]", 1))
	want("other roots", true, false, false, false)
	if team.Grant().ForKey("acme/x", false) == nil || team.Grant().ForKey("globex/x", false) != nil {
		t.Error("the stream has its former roots, want the new ones")
	}
	w.reload(strings.Replace(callersText(), "name: team, scopes: [call], roots: [acme, 'team-*']", "name: team, scopes: [read]", 1))
	want("another scope", true, false, true, false)
	w.reload(strings.Replace(callersText(), "groups: writers", "groups: others", 1))
	want("other claims", true, false, true, true)
	if n := w.Status().Streams; n != 4 {
		t.Errorf("open streams = %d, want 4", n)
	}
	second.Close()
	if n := w.Status().Streams; n != 3 {
		t.Errorf("open streams = %d, want 3", n)
	}
}

// A stream does not outlive its JWT.
func TestSessionsExpire(t *testing.T) {
	w := newWorld(t, callersText())
	s := w.session(signed(t, jwtSecret, jwtClaims(nil)))
	if s.timer == nil {
		t.Fatal("the session of a JWT has no timer")
	}
	short := *s.Grant()
	short.expires = w.now.Add(time.Millisecond)
	_, s = w.Open(context.WithValue(context.Background(), grantKey{}, &short), exchange)
	defer s.Close()
	select {
	case <-s.Ended():
	case <-time.After(waittest.Limit):
		t.Fatal("the session has not ended")
	}
}
