// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/trace"
)

// Replay says that the calls are those of the Azure trace, at their times. The zero
// value says that they are not.
type Replay struct {
	speed       int64 // thousandths
	users, orgs int64
}

const (
	replayHint   = "write a speed such as 1x or 100x, or 10x:users=200,orgs=20"
	maxFaster    = 1_000_000_000 // thousandths
	maxUsers     = 100_000
	defaultUsers = 200
	defaultOrgs  = 20
)

// ParseReplay reads a speed such as 1x or 100x, with or without the users among
// whom the calls are divided: 10x:users=200,orgs=20 has the defaults.
func ParseReplay(text string) (Replay, error) {
	if text == "" {
		return Replay{}, nil
	}
	r := Replay{users: defaultUsers, orgs: defaultOrgs}
	if err := r.parse(text); err != nil {
		return Replay{}, in("replay", text, replayHint, err)
	}
	return r, nil
}

func (r *Replay) parse(text string) (err error) {
	speed, settings, more := strings.Cut(text, ":")
	times, ok := strings.CutSuffix(speed, "x")
	if !ok {
		return fmt.Errorf("%s is not a speed such as 10x", quote(speed))
	}
	if r.speed, err = parseDecimal(times, 3); err != nil {
		return fmt.Errorf("the speed: %w", err)
	}
	if r.speed < 1 || r.speed > maxFaster {
		return fmt.Errorf("the speed must be 0.001x to 1000000x, got %s", speed)
	}
	if !more {
		return nil
	}
	seen := map[string]bool{}
	for item := range strings.SplitSeq(settings, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		if seen[name] {
			return fmt.Errorf("%s is there twice", name)
		}
		seen[name] = true
		switch name {
		case "users":
			r.users, err = parseNumber(value, 1, maxUsers)
		case "orgs":
			r.orgs, err = parseNumber(value, 1, maxUsers)
		default:
			err = errors.New("no setting is called so; there are users and orgs")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", quote(name), err)
		}
	}
	return nil
}

// String returns the canonical text, with all settings.
func (r Replay) String() string {
	if r.speed == 0 {
		return ""
	}
	return fmt.Sprintf("%sx:users=%s,orgs=%s", decimal(r.speed, 3), number(r.users), number(r.orgs))
}

// MarshalText returns the canonical text.
func (r Replay) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is [ParseReplay].
func (r *Replay) UnmarshalText(text []byte) (err error) {
	*r, err = ParseReplay(string(text))
	return err
}

// rows are the calls of the trace, with users.
type rows struct {
	calls []trace.Call
	users []trace.User // per call; their keys have the prefix
	speed int64
}

func newRows(r Replay, prefix string, seed uint64) (*rows, error) {
	calls, err := loadTrace()
	if err != nil {
		return nil, err
	}
	users := trace.Users{Seed: seed, Count: int(r.users), Orgs: int(r.orgs)}
	all := &rows{calls: calls, users: make([]trace.User, len(calls)), speed: r.speed}
	known := map[string]string{}
	for i := range calls {
		u := users.Of(i)
		key, ok := known[u.Key]
		if !ok {
			key = prefix + u.Key
			known[u.Key] = key
		}
		all.users[i] = trace.User{Key: key, Tier: u.Tier}
	}
	return all, nil
}

// due is when a call of the trace is due in the replay.
func (r *rows) due(offset time.Duration) time.Duration {
	return offset * 1000 / time.Duration(r.speed)
}
