// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseNumber reads 10k, 1M, 1_000 or 25.
func parseNumber(text string, least, most int64) (int64, error) {
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
	tooLarge := errors.Is(err, strconv.ErrRange) || err == nil && int64(n) > most/unit
	switch {
	case strings.HasPrefix(digits, "_") || strings.HasSuffix(digits, "_") || strings.Contains(digits, "__"),
		err != nil && !tooLarge:
		return 0, fmt.Errorf("%s is not a whole number such as 25, 1_000, 10k or 1M", quote(text))
	case tooLarge || int64(n)*unit < least:
		return 0, fmt.Errorf("%s must be %s to %s", text, number(least), number(most))
	}
	return int64(n) * unit, nil
}

var units = map[string]int64{"k": 1_000, "K": 1_000, "M": 1_000_000}

// number writes n as parseNumber reads it: 10k, 1M, 1500.
func number(n int64) string {
	switch {
	case n != 0 && n%1_000_000 == 0:
		return strconv.FormatInt(n/1_000_000, 10) + "M"
	case n != 0 && n%1_000 == 0:
		return strconv.FormatInt(n/1_000, 10) + "k"
	default:
		return strconv.FormatInt(n, 10)
	}
}

// parseDecimal reads 1.25 with at most that many places, as 1250 for three.
func parseDecimal(text string, places int) (int64, error) {
	whole, fraction, dot := strings.Cut(text, ".")
	if whole == "" || dot && fraction == "" || strings.ContainsAny(text, "+-_") || len(whole) > 9 {
		return 0, fmt.Errorf("%s is not a number such as 1 or 1.5", quote(text))
	}
	if len(fraction) > places {
		return 0, fmt.Errorf("%s has more than %d places", text, places)
	}
	n, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", places-len(fraction)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not a number such as 1 or 1.5", quote(text))
	}
	return n, nil
}

// decimal writes n as parseDecimal reads it, without needless zeros.
func decimal(n int64, places int) string {
	text := fmt.Sprintf("%0*d", places+1, n)
	text = text[:len(text)-places] + "." + text[len(text)-places:]
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// share is a part of a whole, in millionths.
type share int64

const whole share = 1_000_000

func parseShare(text string) (share, error) {
	percent, ok := strings.CutSuffix(text, "%")
	if !ok {
		return 0, fmt.Errorf("%s is not a share such as 30%% or 0.5%%", quote(text))
	}
	n, err := parseDecimal(percent, 4)
	if err != nil {
		return 0, fmt.Errorf("%s is not a share such as 30%% or 0.5%%: %w", quote(text), err)
	}
	if share(n) > whole {
		return 0, fmt.Errorf("%s is more than 100%%", text)
	}
	return share(n), nil
}

func (s share) String() string { return decimal(int64(s), 4) + "%" }

// span is a range of whole numbers, both ends included.
type span struct{ from, to int64 }

func parseSpan(text string, least, most int64) (s span, err error) {
	from, to, ok := strings.Cut(text, "-")
	if s.from, err = parseNumber(from, least, most); err != nil {
		return span{}, err
	}
	if !ok {
		return span{s.from, s.from}, nil
	}
	if s.to, err = parseNumber(to, least, most); err != nil {
		return span{}, err
	}
	if s.to < s.from {
		return span{}, fmt.Errorf("%s goes down", text)
	}
	return s, nil
}

func (s span) String() string {
	if s.from == s.to {
		return number(s.from)
	}
	return number(s.from) + "-" + number(s.to)
}

// draw picks any of them.
func (s span) draw(r *random) int64 { return s.from + int64(r.below(uint64(s.to-s.from)+1)) }

func (s span) mean() float64 { return float64(s.from+s.to) / 2 }

// times is a range of durations, both ends included.
type times struct{ from, to time.Duration }

func parseTimes(text string, most time.Duration) (t times, err error) {
	from, to, ok := strings.Cut(text, "-")
	if t.from, err = parseTime(from, most); err != nil {
		return times{}, err
	}
	if !ok {
		return times{t.from, t.from}, nil
	}
	if t.to, err = parseTime(to, most); err != nil {
		return times{}, err
	}
	if t.to < t.from {
		return times{}, fmt.Errorf("%s goes down", text)
	}
	return t, nil
}

func parseTime(text string, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || strings.HasPrefix(text, "+") || d < 0 {
		return 0, fmt.Errorf("%s is not a time such as 200ms or 1.5s", quote(text))
	}
	if d > most {
		return 0, fmt.Errorf("%s is more than %s", text, brief(most))
	}
	return d, nil
}

func (t times) String() string {
	if t.from == t.to {
		return brief(t.from)
	}
	return brief(t.from) + "-" + brief(t.to)
}

func (t times) draw(r *random) time.Duration {
	return t.from + time.Duration(r.below(uint64(t.to-t.from)+1))
}

// brief is a duration as people write it: 1m30s, and 2m for 2m0s.
func brief(d time.Duration) string {
	s := d.String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}
