// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/amount"
)

// formatDuration formats three digits and a unit: 142 µs, 1.83 ms, 17.6 ms, 2.50 s.
func formatDuration(d time.Duration) string {
	if d <= 0 {
		return "0"
	}
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "µs"}} {
		// 999.6 µs is 1.00 ms.
		if float64(d) >= 0.9995*float64(u.unit) {
			return threeDigits(float64(d)/float64(u.unit)) + " " + u.name
		}
	}
	return strconv.FormatInt(int64(d), 10) + " ns"
}

// formatElapsed formats a time within a run: 5 s, 2.5 s, 3 min, 1 h 5 min.
func formatElapsed(d time.Duration) string {
	switch {
	case d >= time.Hour:
		h, m := d/time.Hour, d%time.Hour/time.Minute
		if m == 0 {
			return fmt.Sprintf("%d h", h)
		}
		return fmt.Sprintf("%d h %d min", h, m)
	case d >= 2*time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d >= time.Second:
		return strconv.FormatFloat(math.Round(d.Seconds()*10)/10, 'f', -1, 64) + " s"
	case d <= 0:
		return "0 s"
	}
	return formatDuration(d)
}

func threeDigits(f float64) string {
	switch {
	case f < 9.995:
		return strconv.FormatFloat(f, 'f', 2, 64)
	case f < 99.95:
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return formatWhole(f)
}

// formatWhole formats a number without its fraction, or with an exponent if it is huge.
func formatWhole(f float64) string {
	if !(math.Abs(f) < 1e15) {
		return strconv.FormatFloat(f, 'g', 3, 64)
	}
	return amount.Group(int64(math.Round(f)))
}

// nanoseconds converts a number to a duration, bounded by maxValue.
func nanoseconds(f float64) time.Duration { return time.Duration(min(f, maxValue)) }

// formatShort formats a large number with three digits: 950, 1.20k, 54.1k, 1.50M.
func formatShort(f float64) string {
	for _, u := range []struct {
		unit float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if f >= 0.9995*u.unit {
			return trimZeros(threeDigits(f/u.unit)) + u.name
		}
	}
	if f == math.Trunc(f) {
		return strconv.FormatFloat(f, 'f', 0, 64)
	}
	return trimZeros(threeDigits(f))
}

func trimZeros(s string) string {
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// formatRate formats a rate, as a whole number from 100 on.
func formatRate(f float64) string {
	if f >= 100 || f == math.Trunc(f) {
		return formatWhole(f)
	}
	return threeDigits(f)
}

func formatBytes(bytes float64) string {
	for _, u := range []struct {
		unit float64
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if bytes >= u.unit {
			return trimZeros(threeDigits(bytes/u.unit)) + " " + u.name
		}
	}
	return strconv.FormatFloat(bytes, 'f', 0, 64) + " B"
}

// formatPercent formats a fraction as a percentage.
func formatPercent(f float64) string {
	p := f * 100
	switch {
	case p == 0:
		return "0 %"
	case p < 0.01:
		return "< 0.01 %"
	case p < 1:
		return strconv.FormatFloat(p, 'f', 2, 64) + " %"
	case p < 99.95 || p == 100:
		return trimZeros(strconv.FormatFloat(p, 'f', 1, 64)) + " %"
	case p < 100:
		return "> 99.9 %" // not rounded to 100 %
	}
	return trimZeros(threeDigits(p)) + " %"
}

// signedPercent formats a change. Intervals of few samples may reach any factor; beyond
// 1,000 times the number says nothing more.
func signedPercent(p float64) string {
	if p >= 100_000 {
		return "> +100,000 %"
	}
	if math.Abs(p) >= 1000 {
		return fmt.Sprintf("%+.0f %%", p)
	}
	return fmt.Sprintf("%+.1f %%", p)
}

// clean makes text from a document safe for one line of a terminal or a picture: without
// control characters, at most n runes.
func clean(s string, n int) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	s = strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}
