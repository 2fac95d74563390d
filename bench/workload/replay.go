// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/trace"
)

// Replay makes the calls those of the Azure trace, at their times. The zero value
// means no replay.
type Replay struct {
	speed       int64 // thousandths
	users, orgs int64
	from        time.Duration // offset in the trace at which the replay begins
}

const (
	replayHint   = "write a speed such as 1x or 100x, or 10x:users=200,orgs=20"
	maxSpeedup   = 1_000_000_000 // thousandths
	maxUsers     = 100_000
	defaultUsers = 200
	defaultOrgs  = 20
)

// ParseReplay parses a speed such as 1x or 100x, optionally with settings.
// 10x:users=200,orgs=20 assigns the calls to that many users, which are the defaults.
// from=20m begins 20 minutes into the trace.
func ParseReplay(text string) (Replay, error) {
	if text == "" {
		return Replay{}, nil
	}
	r := Replay{users: defaultUsers, orgs: defaultOrgs}
	if err := r.parse(text); err != nil {
		return Replay{}, inPart("replay", text, replayHint, err)
	}
	return r, nil
}

func (r *Replay) parse(text string) (err error) {
	speed, settings, more := strings.Cut(text, ":")
	factor, ok := strings.CutSuffix(speed, "x")
	if !ok {
		return fmt.Errorf("%s must be a speed such as 10x", quote(speed))
	}
	if r.speed, err = parseDecimal(factor, 3); err != nil {
		return fmt.Errorf("the speed: %w", err)
	}
	if r.speed < 1 || r.speed > maxSpeedup {
		return fmt.Errorf("the speed must be 0.001x to 1000000x, got %s", speed)
	}
	if !more {
		return nil
	}
	seen := map[string]bool{}
	for item := range strings.SplitSeq(settings, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		if seen[name] {
			return fmt.Errorf("%s must not be given twice", name)
		}
		seen[name] = true
		switch name {
		case "users":
			r.users, err = parseNumber(value, 1, maxUsers)
		case "orgs":
			r.orgs, err = parseNumber(value, 1, maxUsers)
		case "from":
			r.from, err = parseFrom(value)
		default:
			err = errors.New("unknown setting; the settings are users, orgs and from")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", quote(name), err)
		}
	}
	return nil
}

// maxFrom is longer than the trace.
const maxFrom = 24 * time.Hour

func parseFrom(text string) (time.Duration, error) {
	from, err := time.ParseDuration(text)
	if err != nil || from < 0 || from > maxFrom {
		return 0, fmt.Errorf("%s must be a time in the trace such as 20m", quote(text))
	}
	return from, nil
}

// Skip returns the replay without its first part, which lasts d at its speed.
func (r Replay) Skip(d time.Duration) Replay {
	r.from = min(r.from+r.traceTime(d), maxFrom)
	return r
}

// traceTime returns how much of the trace is replayed in d.
func (r Replay) traceTime(d time.Duration) time.Duration {
	if float64(d)/1000*float64(r.speed) >= float64(maxFrom) {
		return maxFrom
	}
	return d/1000*time.Duration(r.speed) + d%1000*time.Duration(r.speed)/1000
}

// Duration returns the time from the begin of the replay until its last call is due.
// It is 0 without a replay.
func (r Replay) Duration() (time.Duration, error) {
	calls, err := loadTrace()
	if err != nil || r.speed == 0 || len(calls) == 0 {
		return 0, err
	}
	return (&replayRows{speed: r.speed, from: r.from}).due(max(calls[len(calls)-1].Offset, r.from)), nil
}

// String returns the canonical text. It has all settings, except from if that is 0.
func (r Replay) String() string {
	if r.speed == 0 {
		return ""
	}
	text := fmt.Sprintf("%sx:users=%s,orgs=%s", formatDecimal(r.speed, 3), formatNumber(r.users), formatNumber(r.orgs))
	if r.from > 0 {
		text += ",from=" + r.from.String()
	}
	return text
}

// MarshalText returns the canonical text.
func (r Replay) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText parses text like [ParseReplay].
func (r *Replay) UnmarshalText(text []byte) (err error) {
	*r, err = ParseReplay(string(text))
	return err
}

// replayRows are the calls of the trace with their users.
type replayRows struct {
	calls []trace.Call
	users []trace.User // per call; their keys include the prefix
	speed int64
	from  time.Duration
}

func newReplayRows(r Replay, prefix string, seed uint64) (*replayRows, error) {
	calls, err := loadTrace()
	if err != nil {
		return nil, err
	}
	users := trace.Users{Seed: seed, Count: int(r.users), Orgs: int(r.orgs)}
	all := &replayRows{users: make([]trace.User, len(calls)), speed: r.speed, from: r.from}
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
	// Users are assigned before skipping, so that a call has the same user wherever
	// the replay begins.
	first := sort.Search(len(calls), func(i int) bool { return calls[i].Offset >= r.from })
	if first == len(calls) {
		return nil, fmt.Errorf("replay: from: the trace has no calls after %s", r.from)
	}
	all.calls, all.users = calls[first:], all.users[first:]
	return all, nil
}

// due returns when a call of the trace is due in the replay.
func (r *replayRows) due(offset time.Duration) time.Duration {
	return (offset - r.from) * 1000 / time.Duration(r.speed)
}
