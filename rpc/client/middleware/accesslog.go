// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"

	"github.com/bucketring/bucketring/internal/text"
)

// AccessLog says which calls are logged, each in one line. It includes calls that got no
// decision, such as those of unknown callers. Prompts, responses and credentials are
// never logged.
type AccessLog uint8

// What is logged.
const (
	AccessLogOff     AccessLog = iota
	AccessLogSampled           // one call in 100, chosen at random
	AccessLogOn
)

// accessSample is how many calls one logged call stands for, with AccessLogSampled.
const accessSample = 100

// String returns "off", "sampled" or "on".
func (a AccessLog) String() string {
	if a > AccessLogOn {
		return fmt.Sprintf("AccessLog(%d)", uint8(a))
	}
	return [...]string{"off", "sampled", "on"}[a]
}

// maxLoggedText bounds the texts of callers in a line.
const maxLoggedText = 100

// accessLog writes the access log.
type accessLog struct {
	mode      AccessLog
	plainKeys bool
	logger    *slog.Logger
}

// write logs a call that has ended.
func (a accessLog) write(r *Result) {
	if a.mode == AccessLogOff || a.mode == AccessLogSampled && rand.Uint64N(accessSample) != 0 {
		return
	}
	ctx := context.Background()
	if !a.logger.Enabled(ctx, slog.LevelInfo) {
		return
	}
	attrs := make([]slog.Attr, 0, 16)
	switch {
	case r.Key == "": // nobody was identified
	case a.plainKeys:
		attrs = append(attrs, slog.String("key", text.Shorten(r.Key, maxLoggedText)))
	default:
		attrs = append(attrs, slog.String("key_hash", hashKey(r.Key)))
	}
	attrs = append(attrs, slog.String("method", text.Shorten(r.Method, maxLoggedText)), slog.String("outcome", string(r.Outcome)))
	for _, optional := range [...]slog.Attr{
		slog.String("model", text.Shorten(r.Model, maxLoggedText)), slog.String("tier", r.Tier), slog.String("reason", string(r.Reason)),
		slog.String("request_id", r.RequestID), slog.String("source", string(r.Source)),
	} {
		if optional.Value.String() != "" {
			attrs = append(attrs, optional)
		}
	}
	attrs = append(attrs, slog.Int("status", r.Status),
		slog.Int64("input_tokens", r.Charged.InputTokens), slog.Int64("cached_input_tokens", r.Charged.CachedInputTokens),
		slog.Int64("output_tokens", r.Charged.OutputTokens),
		slog.Duration("first_byte", r.FirstByte), slog.Duration("duration", r.Duration))
	a.logger.LogAttrs(ctx, slog.LevelInfo, "call", attrs...)
}

// hashKey returns a pseudonym of a key, which is the same in all processes.
func hashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:8])
}
