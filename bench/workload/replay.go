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

// Replay says that the calls are those of the Azure trace, at their times. The zero
// value says that they are not.
type Replay struct {
	speed       int64 // thousandths
	users, orgs int64
	from        time.Duration // of the trace: what came before is left out
}

const (
	replayHint   = "write a speed such as 1x or 100x, or 10x:users=200,orgs=20"
	maxFaster    = 1_000_000_000 // thousandths
	maxUsers     = 100_000
	defaultUsers = 200
	defaultOrgs  = 20
)

// ParseReplay reads a speed such as 1x or 100x, with or without the users among
// whom the calls are divided: 10x:users=200,orgs=20 has the defaults. from=20m begins
// at 20 minutes of the trace.
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
		case "from":
			r.from, err = parseFrom(value)
		default:
			err = errors.New("no setting is called so; there are users, orgs and from")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", quote(name), err)
		}
	}
	return nil
}

// maxFrom is more than the trace has.
const maxFrom = 24 * time.Hour

func parseFrom(text string) (time.Duration, error) {
	from, err := time.ParseDuration(text)
	if err != nil || from < 0 || from > maxFrom {
		return 0, fmt.Errorf("%s is not a time in the trace such as 20m", quote(text))
	}
	return from, nil
}

// After returns the replay without its first part, which takes d at its speed.
func (r Replay) After(d time.Duration) Replay {
	r.from = min(r.from+r.inTrace(d), maxFrom)
	return r
}

// inTrace is how much of the trace is replayed in d.
func (r Replay) inTrace(d time.Duration) time.Duration {
	if float64(d)/1000*float64(r.speed) >= float64(maxFrom) {
		return maxFrom
	}
	return d/1000*time.Duration(r.speed) + d%1000*time.Duration(r.speed)/1000
}

// Length is how long the replay takes, until its last call is due; 0 if there is
// none.
func (r Replay) Length() (time.Duration, error) {
	calls, err := loadTrace()
	if err != nil || r.speed == 0 || len(calls) == 0 {
		return 0, err
	}
	return (&rows{speed: r.speed, from: r.from}).due(max(calls[len(calls)-1].Offset, r.from)), nil
}

// String returns the canonical text, with all settings but a from of zero.
func (r Replay) String() string {
	if r.speed == 0 {
		return ""
	}
	text := fmt.Sprintf("%sx:users=%s,orgs=%s", decimal(r.speed, 3), number(r.users), number(r.orgs))
	if r.from > 0 {
		text += ",from=" + r.from.String()
	}
	return text
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
	from  time.Duration
}

func newRows(r Replay, prefix string, seed uint64) (*rows, error) {
	calls, err := loadTrace()
	if err != nil {
		return nil, err
	}
	users := trace.Users{Seed: seed, Count: int(r.users), Orgs: int(r.orgs)}
	all := &rows{users: make([]trace.User, len(calls)), speed: r.speed, from: r.from}
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
	// A call has the same user wherever a replay begins.
	first := sort.Search(len(calls), func(i int) bool { return calls[i].Offset >= r.from })
	if first == len(calls) {
		return nil, fmt.Errorf("replay: the trace has no calls from %s on", r.from)
	}
	all.calls, all.users = calls[first:], all.users[first:]
	return all, nil
}

// due is when a call of the trace is due in the replay.
func (r *rows) due(offset time.Duration) time.Duration {
	return (offset - r.from) * 1000 / time.Duration(r.speed)
}
