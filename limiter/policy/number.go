// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// suffixes are the decimal places of what an amount may end with: 100k, 1.5M.
var suffixes = map[byte]int{'k': 3, 'K': 3, 'M': 6, 'B': 9}

// parseScaled reads a decimal as parseDecimal does, or one with a suffix: 100k, 1.5M, 2B.
func parseScaled(s string, places int) (int64, error) {
	more := 0
	if s != "" {
		more = suffixes[s[len(s)-1]]
	}
	if more == 0 {
		return parseDecimal(s, places)
	}
	n, err := parseDecimal(s[:len(s)-1], places+more)
	if large, ok := errors.AsType[*tooLargeError](err); ok {
		large.places = places
	}
	if other, ok := errors.AsType[*notNumberError](err); ok {
		other.places = places
	}
	return n, err
}

var (
	rateWord    = regexp.MustCompile(`^(\$?[0-9][0-9_.]*[kKMB]?)\s*(?i:[rt]p([smhd]))$`)
	withCommas  = regexp.MustCompile(`^\$?[0-9]{1,3}(,[0-9]{3})+$`)
	smallM      = regexp.MustCompile(`^\$?[0-9][0-9_.]*m$`)
	withDots    = regexp.MustCompile(`^\$?[1-9][0-9]{0,2}(\.[0-9]{3})+$`)
	plainNumber = regexp.MustCompile(`^[0-9][0-9_]*(\.[0-9]+)?$`)
	fraction    = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)
	currency    = regexp.MustCompile(`^(?i:[€£¥]|(?:eur|gbp|usd)\b)|(?i:[$€£¥]|(?:\b|[0-9])(?:eur|gbp|usd))$`)
	rateWindows = map[string]string{"s": "second", "m": "min", "h": "hour", "d": "day"}
)

// howToWrite returns what to write instead of an amount and a window that cannot be read, to
// follow "must be ...", or "" if that is not clear.
func howToWrite(d limiter.Dimension, amount, win string) string {
	after := ""
	if win != "" {
		after = "/" + win
	}
	if m := rateWord.FindStringSubmatch(amount); m != nil && win == "" {
		return "write " + m[1] + "/" + rateWindows[strings.ToLower(m[2])]
	}
	switch {
	case strings.EqualFold(amount, "unlimited"), strings.EqualFold(amount, "infinity"), strings.EqualFold(amount, "none"):
		return "leave " + string(d) + " out for no limit"
	case withCommas.MatchString(amount):
		return "write " + strings.ReplaceAll(amount, ",", "_") + after
	case smallM.MatchString(amount):
		return "write " + strings.TrimSuffix(amount, "m") + "M" + after + " for millions"
	case d == limiter.Spend && currency.MatchString(amount):
		return "prices are in dollars: write " + inDollars(amount) + after
	case withDots.MatchString(amount):
		whole, _, _ := strings.Cut(amount, ".")
		return fmt.Sprintf("write %s%s for thousands, or %s%s", strings.ReplaceAll(amount, ".", "_"), after, whole, after)
	case d == limiter.Spend && plainNumber.MatchString(amount):
		return "write $" + amount + after
	case fraction.MatchString(amount):
		return wholeRate(amount, win)
	}
	return ""
}

// inDollars returns an amount that has another mark of its currency with a $ before it.
func inDollars(amount string) string {
	number := strings.Trim(currency.ReplaceAllStringFunc(amount, func(mark string) string {
		return strings.Trim(mark, "$€£¥abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	}), " ")
	if dollars := "$" + number; withCommas.MatchString(dollars) {
		return strings.ReplaceAll(dollars, ",", "_")
	} else if _, err := parseDollars(dollars); err == nil {
		return dollars
	}
	return "$10"
}

// wholeRate returns how to write a rate such as 0.5/min with a whole number, or "".
func wholeRate(amount, win string) string {
	w, err := parseWindow(win)
	if err != nil || w.length <= 0 {
		return ""
	}
	n, err := parseDecimal(amount, 6)
	if err != nil {
		return ""
	}
	for _, longer := range []struct {
		name   string
		length time.Duration
	}{{"min", time.Minute}, {"hour", time.Hour}, {"day", day}, {"week", 7 * day}} {
		if longer.length <= w.length || longer.length%w.length != 0 {
			continue
		}
		if times := int64(longer.length / w.length); n <= limiter.MaxAmount/times && n*times%micros == 0 {
			return fmt.Sprintf("write %d/%s", n*times/micros, longer.name)
		}
	}
	return ""
}
