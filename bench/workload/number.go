// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseNumber parses a number such as 10k, 1M, 1_000 or 25, from minValue to maxValue.
func parseNumber(text string, minValue, maxValue int64) (int64, error) {
	digits, unit := text, int64(1)
	for suffix, size := range units {
		if cut, ok := strings.CutSuffix(text, suffix); ok {
			digits, unit = cut, size
		}
	}
	if text == "" {
		return 0, errors.New("a number is missing")
	}
	plain := strings.ReplaceAll(digits, "_", "")
	n, err := strconv.ParseUint(plain, 10, 63)
	tooLarge := errors.Is(err, strconv.ErrRange) || err == nil && int64(n) > maxValue/unit
	switch {
	case strings.HasPrefix(digits, "_") || strings.HasSuffix(digits, "_") || strings.Contains(digits, "__"),
		err != nil && !tooLarge:
		return 0, fmt.Errorf("%s must be a whole number such as 25, 1_000, 10k or 1M", quote(text))
	case tooLarge || int64(n)*unit < minValue:
		return 0, fmt.Errorf("%s must be %s to %s", text, formatNumber(minValue), formatNumber(maxValue))
	}
	return int64(n) * unit, nil
}

var units = map[string]int64{"k": 1_000, "K": 1_000, "M": 1_000_000}

// formatNumber formats n for parseNumber: 10k, 1M, 1500.
func formatNumber(n int64) string {
	switch {
	case n != 0 && n%1_000_000 == 0:
		return strconv.FormatInt(n/1_000_000, 10) + "M"
	case n != 0 && n%1_000 == 0:
		return strconv.FormatInt(n/1_000, 10) + "k"
	default:
		return strconv.FormatInt(n, 10)
	}
}

// parseDecimal parses a decimal with at most that many places: 1.25 is 1250 for three.
func parseDecimal(text string, places int) (int64, error) {
	whole, fraction, dot := strings.Cut(text, ".")
	if whole == "" || dot && fraction == "" || strings.ContainsAny(text, "+-_") || len(whole) > 9 {
		return 0, fmt.Errorf("%s must be a number such as 1 or 1.5", quote(text))
	}
	if len(fraction) > places {
		return 0, fmt.Errorf("%s must have at most %d decimal places", text, places)
	}
	n, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", places-len(fraction)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s must be a number such as 1 or 1.5", quote(text))
	}
	return n, nil
}

// formatDecimal formats n for parseDecimal, without trailing zeros.
func formatDecimal(n int64, places int) string {
	text := fmt.Sprintf("%0*d", places+1, n)
	text = text[:len(text)-places] + "." + text[len(text)-places:]
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// share is a fraction, in millionths.
type share int64

const fullShare share = 1_000_000

func parseShare(text string) (share, error) {
	percent, ok := strings.CutSuffix(text, "%")
	if !ok {
		return 0, fmt.Errorf("%s must be a share such as 30%% or 0.5%%", quote(text))
	}
	n, err := parseDecimal(percent, 4)
	if err != nil {
		return 0, fmt.Errorf("%s must be a share such as 30%% or 0.5%%: %w", quote(text), err)
	}
	if share(n) > fullShare {
		return 0, fmt.Errorf("must be at most 100%%, got %s", text)
	}
	return share(n), nil
}

func (s share) String() string { return formatDecimal(int64(s), 4) + "%" }

// intRange is a range of integers, including both ends.
type intRange struct{ from, to int64 }

func parseIntRange(text string, minValue, maxValue int64) (s intRange, err error) {
	from, to, ok := strings.Cut(text, "-")
	if s.from, err = parseNumber(from, minValue, maxValue); err != nil {
		return intRange{}, err
	}
	if !ok {
		return intRange{s.from, s.from}, nil
	}
	if s.to, err = parseNumber(to, minValue, maxValue); err != nil {
		return intRange{}, err
	}
	if s.to < s.from {
		return intRange{}, fmt.Errorf("%s must not decrease", text)
	}
	return s, nil
}

func (s intRange) String() string {
	if s.from == s.to {
		return formatNumber(s.from)
	}
	return formatNumber(s.from) + "-" + formatNumber(s.to)
}

// draw returns a uniformly distributed number of the range.
func (s intRange) draw(r *random) int64 { return s.from + int64(r.below(uint64(s.to-s.from)+1)) }

func (s intRange) mean() float64 { return float64(s.from+s.to) / 2 }

// durationRange is a range of durations, including both ends.
type durationRange struct{ from, to time.Duration }

func parseDurationRange(text string, longest time.Duration) (t durationRange, err error) {
	from, to, ok := strings.Cut(text, "-")
	if t.from, err = parseDuration(from, longest); err != nil {
		return durationRange{}, err
	}
	if !ok {
		return durationRange{t.from, t.from}, nil
	}
	if t.to, err = parseDuration(to, longest); err != nil {
		return durationRange{}, err
	}
	if t.to < t.from {
		return durationRange{}, fmt.Errorf("%s must not decrease", text)
	}
	return t, nil
}

func parseDuration(text string, longest time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || strings.HasPrefix(text, "+") || d < 0 {
		return 0, fmt.Errorf("%s must be a time such as 200ms or 1.5s", quote(text))
	}
	if d > longest {
		return 0, fmt.Errorf("must be at most %s, got %s", formatDuration(longest), text)
	}
	return d, nil
}

func (t durationRange) String() string {
	if t.from == t.to {
		return formatDuration(t.from)
	}
	return formatDuration(t.from) + "-" + formatDuration(t.to)
}

func (t durationRange) draw(r *random) time.Duration {
	return t.from + time.Duration(r.below(uint64(t.to-t.from)+1))
}

// formatDuration shortens 2m0s to 2m.
func formatDuration(d time.Duration) string {
	s := d.String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}
