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
	Name: "redis", Syntax: "redis://[USER:PASSWORD@]HOST[:PORT][/DB]",
	Measures:    "The limiter that most people write: INCR and EXPIRE of a counter per key and window in one pipeline, with go-redis, for one limit on requests.",
	Limitations: "Windows follow the clock of this process, and twice the limit fits around the boundary of two windows. Denied calls count, so a call that is too large uses up the window for smaller ones. There is one limit, there are no request ids, so a retry is charged again, and no reservations. A Redis that restarts may have lost all state.",
}

// The same kinds over TLS have names of their own.
var redisTLSKind = withTLS(redisKind)

// withTLS returns a kind on Redis over TLS: redis becomes rediss, as in URLs.
func withTLS(k Kind) Kind {
	k.Name = tlsName(k.Name)
	k.Syntax = tlsName(k.Syntax)
	k.Limitations += tlsLimitation
	return k
}

func tlsName(text string) string { return "rediss" + strings.TrimPrefix(text, "redis") }

// redisBase is the common part of the targets on Redis. go-redis ends a request at
// its deadline, but not when its context is cancelled.
type redisBase struct {
	base
	checksOnly
	client *redis.Client
	prefix string
}

// DisableRedisLogging silences go-redis in the whole process. It writes to stderr when
// a connection fails, which is also the error of a request.
func DisableRedisLogging() { redis.SetLogger(&logging.VoidLogger{}) }

// noTimeout is longer than any request takes.
const noTimeout = 10 * time.Minute

func openStore(k *kind, rest string, o Options) (*redisBase, error) {
	encrypted := strings.HasPrefix(k.Name, "rediss")
	switch {
	case !encrypted && o.TLS != nil:
		return nil, fmt.Errorf("tls: must not be set for %s://; for TLS, use %s://", k.Name, tlsName(k.Name))
	case encrypted && o.TLS == nil:
		o.TLS, o.Insecure = &tls.Config{MinVersion: tls.VersionTLS12}, false
	}
	o.Token = nil // it is for nodes
	return newStore(k, rest, o)
}

// newStore returns a client of a server that speaks the protocol of Redis. The token is its
// password, unless the spec has one.
func newStore(k *kind, rest string, o Options) (*redisBase, error) {
	options := &redis.Options{
		TLSConfig: o.TLS,
		PoolSize:  o.Connections,
		// The deadline of a request is that of its context, which always has one.
		ContextTimeoutEnabled: true,
		PoolTimeout:           noTimeout, ReadTimeout: noTimeout, WriteTimeout: noTimeout,
		MaxRetries:       -1, // without request ids, a retry would be charged again
		DialerRetries:    1,
		PipelinePoolSize: -1, // pipelines use the same connections as scripts
		// Features of newer servers that are not used here.
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	where, err := parseRedis(k.Name, rest, o, options)
	if err != nil {
		return nil, err
	}
	if o.Token != nil && options.Password == "" {
		options.CredentialsProviderContext = func(context.Context) (user, password string, err error) {
			password, err = o.Token.Token()
			return "", password, err
		}
	}
	prefix := o.Prefix
	if prefix == "" {
		prefix = "bench:" + rand.Text()
	}
	return &redisBase{base: newBase(k, k.Name+"://"+where, o), client: redis.NewClient(options), prefix: prefix}, nil
}

// parseRedis parses [USER:PASSWORD@]HOST[:PORT][/DB] into options. It returns the
// address without user and password.
func parseRedis(kind, rest string, o Options, options *redis.Options) (where string, err error) {
	login, place := "", rest
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		login, place = rest[:at], rest[at+1:]
		user, password, found := strings.Cut(login, ":")
		if !found {
			return "", errors.New("must have USER:PASSWORD or :PASSWORD before the @")
		}
		if options.Username, err = url.PathUnescape(user); err == nil {
			options.Password, err = url.PathUnescape(password)
		}
		if err != nil {
			return "", errors.New("user and password must be percent-encoded; write %25 for %")
		}
	}
	if before, _, found := strings.Cut(place, "?"); found {
		return "", fmt.Errorf("must not have URL parameters, got some after %q", before)
	}
	host, db, found := strings.Cut(place, "/")
	if options.Addr, err = parseAddress(kind, host, "6379", o); err != nil {
		return "", err
	}
	if !found || db == "" {
		return options.Addr, nil
	}
	if options.DB, err = strconv.Atoi(db); err != nil || options.DB < 0 {
		return "", fmt.Errorf("database: must be a number of at least 0, got %q", db)
	}
	return options.Addr + "/" + db, nil
}

func (s *redisBase) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.client.Ping(ctx).Err()
}

func (s *redisBase) version(ctx context.Context) string {
	info, err := s.client.Info(ctx, "server").Result()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(info) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "redis_version:"); ok {
			return "Redis " + version
		}
	}
	return ""
}

// Close implements [bench.Target].
func (s *redisBase) Close() error { return s.client.Close() }

// redisTarget counts requests in fixed windows.
type redisTarget struct {
	*redisBase
	limit Limit
	now   func() time.Time
}

func openRedis(k *kind, rest string, o Options) (builtin, error) {
	limit := o.Limits[0]
	switch {
	case len(o.Limits) > 1:
		return nil, fmt.Errorf("limits: must be one limit on requests, got %d; redis-lua supports up to %d", len(o.Limits), len(dimensions))
	case limit.Dimension != Requests:
		return nil, fmt.Errorf("limits[0].dimension: must be requests, got %s; redis-lua supports others", limit.Dimension)
	case limit.Window%time.Second != 0:
		return nil, fmt.Errorf("limits[0].window: must be whole seconds, got %v", limit.Window)
	}
	s, err := openStore(k, rest, o)
	if err != nil {
		return nil, err
	}
	return &redisTarget{s, limit, o.Now}, nil
}

func (c *redisTarget) describe() string { return "Limit: " + c.limit.String() + "." }

// key returns the name of the counter of a key in the current window.
func (c *redisTarget) key(of string) string {
	window := c.now().Unix() / int64(c.limit.Window/time.Second)
	return c.prefix + ":" + of + ":" + strconv.FormatInt(window, 10)
}

// Check implements [bench.Target].
func (c *redisTarget) Check(ctx context.Context, call *bench.Call) (bench.Answer, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	key := c.key(call.Key)
	pipe := c.client.Pipeline()
	count := pipe.IncrBy(ctx, key, requestsOf(call))
	pipe.Expire(ctx, key, c.limit.Window)
	if _, err := pipe.Exec(ctx); err != nil {
		return bench.Answer{}, connError(ctx, "check", err)
	}
	switch {
	case count.Val() <= c.limit.Amount:
		return bench.Answer{Outcome: bench.Allowed}, nil
	case requestsOf(call) > c.limit.Amount:
		return bench.Answer{Outcome: bench.Denied, Reason: exceedsCapacity}, nil
	}
	return bench.Answer{Outcome: bench.Denied, Reason: limitExceeded}, nil
}

// ReadUsage implements [bench.UsageReader]. It returns the counter of the current
// window, in which denied calls count too.
func (c *redisTarget) ReadUsage(ctx context.Context, key, _, _ string) ([]bench.LimitUsage, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	n, err := c.client.Get(ctx, c.key(key)).Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, connError(ctx, "read counter", err)
	}
	return []bench.LimitUsage{{Scope: key, Dimension: string(Requests), Name: string(Requests), Used: n, Limit: c.limit.Amount}}, nil
}
