// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bucketring/bucketring/internal/freeport"
)

// Other limiters, called as their users call them. One that is not given on the command
// line has no rows.

func (b *bench) peerRows(ctx context.Context) error {
	if b.redis != "" {
		if err := b.redisRows(ctx); err != nil {
			return fmt.Errorf("redis %s: %w", b.redis, err)
		}
	}
	if b.gubernator != "" {
		for _, daemons := range []int{1, 3} {
			if err := b.gubernatorRows(ctx, daemons); err != nil {
				return fmt.Errorf("gubernator: %w", err)
			}
		}
	}
	return nil
}

// tokenBucket takes ARGV[3] tokens from a bucket of capacity ARGV[1] that refills ARGV[2]
// per second, by the server's clock.
var tokenBucket = redis.NewScript(`
local now = redis.call('TIME')
local t = now[1] * 1000 + math.floor(now[2] / 1000)
local s = redis.call('HMGET', KEYS[1], 'level', 'at')
local level, at = tonumber(s[1]) or tonumber(ARGV[1]), tonumber(s[2]) or t
level = math.min(tonumber(ARGV[1]), level + (t - at) * tonumber(ARGV[2]) / 1000)
local ok = level >= tonumber(ARGV[3])
if ok then level = level - tonumber(ARGV[3]) end
redis.call('HSET', KEYS[1], 'level', level, 'at', t)
redis.call('PEXPIRE', KEYS[1], 120000)
return { ok and 1 or 0, tostring(level) }
`)

func (b *bench) redisRows(ctx context.Context) error {
	c := redis.NewClient(&redis.Options{Addr: b.redis})
	b.onClose(func() { _ = c.Close() }) // the process is ending
	if err := tokenBucket.Load(ctx, c).Err(); err != nil {
		return err
	}
	b.add("Redis, atomic Lua token bucket of 1 limit", nil, func(ctx context.Context, caller, turn int) (int, error) {
		key := "bucket:" + keyName(caller*7919+turn)
		answer, err := tokenBucket.EvalSha(ctx, c, []string{key}, 1_000_000_000, 1_000_000, 1).Slice()
		if err == nil && answer[0] != int64(1) {
			err = fmt.Errorf("denied: %v", answer)
		}
		return 1, err
	}, 1, 16, 128)
	return nil
}

func (b *bench) gubernatorRows(ctx context.Context, daemons int) error {
	c, err := b.startGubernator(ctx, daemons)
	if err != nil {
		return err
	}
	conn, err := b.dial(c.grpc)
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("Gubernator 2.13, %d node(s), 1 limit", daemons), []*child{c}, func(ctx context.Context, caller, turn int) (int, error) {
		var out []byte
		in := rateLimits(keyName(rand.IntN(keys)), plentyOfHits, batching)
		if err := conn.Invoke(ctx, "/pb.gubernator.V1/GetRateLimits", in, &out, grpc.ForceCodec(rawCodec{})); err != nil {
			return 0, err
		}
		if len(out) < 8 {
			return 0, fmt.Errorf("got an answer of %d bytes", len(out))
		}
		return 1, nil
	}, 1, 16, 128)
	return nil
}

// startGubernator starts a cluster of daemons in one process.
func (b *bench) startGubernator(ctx context.Context, daemons int) (*child, error) {
	port, err := freeport.Pick()
	if err != nil {
		return nil, err
	}
	c, err := start(ctx, b.gubernator, "--port", strconv.Itoa(port), "--daemons", strconv.Itoa(daemons))
	if err != nil {
		return nil, err
	}
	b.onClose(c.stop)
	return c, nil
}

const plentyOfHits = 1_000_000_000

// rateLimits encodes a GetRateLimitsReq with one limit per minute. Its Go types would make all of
// Gubernator a dependency. This client therefore does less work than the others.
func rateLimits(key string, limit, behavior uint64) []byte {
	var r []byte
	for field, text := range []string{1: "requests", 2: key} {
		if text != "" {
			r = protowire.AppendString(protowire.AppendTag(r, protowire.Number(field), protowire.BytesType), text)
		}
	}
	for field, n := range []uint64{3: 1, 4: limit, 5: 60_000, 7: behavior} {
		if n != 0 {
			r = protowire.AppendVarint(protowire.AppendTag(r, protowire.Number(field), protowire.VarintType), n)
		}
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), r)
}

// rawCodec sends bytes unchanged.
type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
