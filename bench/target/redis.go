// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/bucketring/bucketring/bench"
)

var redisKind = Kind{
	Name: "redis", Form: "redis://[USER:PASSWORD@]HOST[:PORT][/DB]",
	Measures: "The limiter that most people write: INCR and EXPIRE of a counter per key and window in one pipeline, by go-redis, against one limit on requests.",
	Leaves:   "A window begins when the clock of the asking process says so, and twice the limit fits around its boundary. Denied calls count, so one that is too large uses up the window for smaller ones. There is one limit, no request ids, so that a repetition is charged again, and no reservations. A Redis that restarts may have forgotten everything.",
}

// Those over TLS are the same, by their own name.
var redissKind = secure(redisKind)

// secure is a kind on Redis over TLS: redis becomes rediss, as in URLs everywhere.
func secure(k Kind) Kind {
	k.Name = overTLS(k.Name)
	k.Form = overTLS(k.Form)
	k.Leaves += " Handshakes are part of it whenever a connection is new."
	return k
}

func overTLS(text string) string { return "rediss" + strings.TrimPrefix(text, "redis") }

// store is what both targets on Redis have. go-redis keeps the deadline of a
// question that was sent, but only that: one that is cancelled ends with its answer.
type store struct {
	base
	checksOnly
	client *redis.Client
	prefix string
}

// QuietRedis makes go-redis silent in the whole process. It writes to stderr when a
// connection fails, which is also an error of the question that needed it.
func QuietRedis() { redis.SetLogger(&logging.VoidLogger{}) }

// patience is longer than any question takes.
const patience = 10 * time.Minute

func openStore(k *kind, rest string, o Options) (*store, error) {
	encrypted := strings.HasPrefix(k.Name, "rediss")
	switch {
	case !encrypted && o.TLS != nil:
		return nil, fmt.Errorf("tls: must not be set for %s://; for TLS, use %s://", k.Name, overTLS(k.Name))
	case encrypted && o.TLS == nil:
		o.TLS, o.Insecure = &tls.Config{MinVersion: tls.VersionTLS12}, false
	}
	options := &redis.Options{
		TLSConfig: o.TLS,
		PoolSize:  o.Connections,
		// The deadline of a question is that of its context, which always has one.
		ContextTimeoutEnabled: true,
		PoolTimeout:           patience, ReadTimeout: patience, WriteTimeout: patience,
		MaxRetries:       -1, // there are no request ids: what is sent again is charged again
		DialerRetries:    1,
		PipelinePoolSize: -1, // pipelines use the same connections as scripts
		// What newer servers say about themselves is not needed.
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	where, err := parseRedis(k.Name, rest, o, options)
	if err != nil {
		return nil, err
	}
	prefix := o.Prefix
	if prefix == "" {
		prefix = "bench:" + rand.Text()
	}
	return &store{base: base{k, k.Name + "://" + where, o.Timeout}, client: redis.NewClient(options), prefix: prefix}, nil
}

// parseRedis reads [USER:PASSWORD@]HOST[:PORT][/DB] into options, and returns it
// without the user and the password.
func parseRedis(kind, rest string, o Options, options *redis.Options) (where string, err error) {
	login, place := "", rest
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		login, place = rest[:at], rest[at+1:]
		user, password, found := strings.Cut(login, ":")
		if !found {
			return "", errors.New("before the @, must have USER:PASSWORD or :PASSWORD")
		}
		if options.Username, err = url.PathUnescape(user); err == nil {
			options.Password, err = url.PathUnescape(password)
		}
		if err != nil {
			return "", errors.New("the user or the password has a % that is not followed by two hex digits; a % itself is %25")
		}
	}
	if before, _, found := strings.Cut(place, "?"); found {
		return "", fmt.Errorf("has no parameters, got some after %q; they are options", before)
	}
	host, db, found := strings.Cut(place, "/")
	if options.Addr, err = only(kind, host, "6379", o); err != nil {
		return "", err
	}
	if !found || db == "" {
		return options.Addr, nil
	}
	if options.DB, err = strconv.Atoi(db); err != nil || options.DB < 0 {
		return "", fmt.Errorf("database must be a number from 0, got %q", db)
	}
	return options.Addr + "/" + db, nil
}

func (s *store) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.client.Ping(ctx).Err()
}

func (s *store) version(ctx context.Context) string {
	said, err := s.client.Info(ctx, "server").Result()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(said) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "redis_version:"); ok {
			return "Redis " + version
		}
	}
	return ""
}

// Close implements [bench.Target].
func (s *store) Close() error { return s.client.Close() }

// counter is a fixed window.
type counter struct {
	*store
	limit Limit
	now   func() time.Time
}

func openRedis(k *kind, rest string, o Options) (opened, error) {
	limit := o.Limits[0]
	switch {
	case len(o.Limits) > 1:
		return nil, fmt.Errorf("limits: must be one on requests, got %d; redis-lua has up to %d", len(o.Limits), len(dimensions))
	case limit.Dimension != Requests:
		return nil, fmt.Errorf("limits[0].dimension: must be requests, got %s; redis-lua has others", limit.Dimension)
	case limit.Window%time.Second != 0:
		return nil, fmt.Errorf("limits[0].window: must be whole seconds, got %v", limit.Window)
	}
	s, err := openStore(k, rest, o)
	if err != nil {
		return nil, err
	}
	return &counter{s, limit, o.Now}, nil
}

func (c *counter) describe() string { return "Limit: " + c.limit.String() + "." }

// key names the counter of a key in the present window.
func (c *counter) key(of string) string {
	window := c.now().Unix() / int64(c.limit.Window/time.Second)
	return c.prefix + ":" + of + ":" + strconv.FormatInt(window, 10)
}

// Check implements [bench.Target].
func (c *counter) Check(ctx context.Context, call *bench.Call) (bench.Answer, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	key := c.key(call.Key)
	pipe := c.client.Pipeline()
	count := pipe.IncrBy(ctx, key, requests(call))
	pipe.Expire(ctx, key, c.limit.Window)
	if _, err := pipe.Exec(ctx); err != nil {
		return bench.Answer{}, late(ctx, "check", err)
	}
	switch {
	case count.Val() <= c.limit.Amount:
		return bench.Answer{Outcome: bench.Allowed}, nil
	case requests(call) > c.limit.Amount:
		return bench.Answer{Outcome: bench.Denied, Reason: exceedsCapacity}, nil
	}
	return bench.Answer{Outcome: bench.Denied, Reason: limitExceeded}, nil
}

// Used implements [bench.Left]. It is the counter of the present window, in which
// denied calls are counted, too.
func (c *counter) Used(ctx context.Context, key, _, _ string) ([]bench.LimitUsage, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	n, err := c.client.Get(ctx, c.key(key)).Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, late(ctx, "read counter", err)
	}
	return []bench.LimitUsage{{Scope: key, Dimension: string(Requests), Name: string(Requests), Used: n, Limit: c.limit.Amount}}, nil
}
