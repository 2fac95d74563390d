// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/bucketring/bucketring/internal/keypath"
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
	mode   AccessLog
	keys   keypath.LogForm
	logger *slog.Logger
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
	attrs := make([]slog.Attr, 0, 18)
	if r.Key != "" { // else nobody was identified
		attrs = append(attrs, slog.String(a.keys.Field(r.Key)))
	}
	attrs = append(attrs, slog.String("method", text.Shorten(r.Method, maxLoggedText)), slog.String("outcome", string(r.Outcome)))
	for _, optional := range [...]slog.Attr{
		slog.String("model", text.Shorten(r.Model, maxLoggedText)), slog.String("tier", r.Tier), slog.String("reason", string(r.Reason)),
		slog.String("priority", string(r.Priority)), slog.String("request_id", r.RequestID), slog.String("source", string(r.Source)),
	} {
		if optional.Value.String() != "" {
			attrs = append(attrs, optional)
		}
	}
	if r.Waited > 0 {
		attrs = append(attrs, slog.Float64("waited_ms", milliseconds(r.Waited)))
	}
	attrs = append(attrs, slog.Int("status", r.Status),
		slog.Int64("input_tokens", r.Charged.InputTokens), slog.Int64("cached_input_tokens", r.Charged.CachedInputTokens),
		slog.Int64("output_tokens", r.Charged.OutputTokens),
		slog.Float64("first_byte_ms", milliseconds(r.FirstByte)), slog.Float64("duration_ms", milliseconds(r.Duration)))
	a.logger.LogAttrs(ctx, slog.LevelInfo, "call", attrs...)
}

// milliseconds returns d in milliseconds, with three decimals.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// failure returns the attributes of a line that says that something failed for a call of a
// key.
func (a accessLog) failure(key string, err error, attrs ...slog.Attr) []slog.Attr {
	return append(attrs, slog.String(a.keys.Field(key)), slog.String("error", a.keys.ErrorText(err, key)))
}
