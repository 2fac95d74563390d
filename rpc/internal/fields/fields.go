// SPDX-License-Identifier: Apache-2.0

// Package fields parses the fields of a request that are written as text, for the
// interfaces that take them so: JSON and the Redis protocol. They have the same bounds and the
// same words for what is wrong. A problem is empty if there is none, and is followed by what
// was given: "must be a whole number, got 1.5".
package fields

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// MaxNumbers bounds the memory of a list of costs, of which the service takes fewer.
const MaxNumbers = 256

// Problems that every interface has.
const (
	NotNumber = "must be a number"
	Twice     = "is given twice"
)

// IsNumber reports whether s is a number as JSON writes it.
func IsNumber(s string) bool {
	s = strings.TrimPrefix(s, "-")
	integer := digits(s)
	if integer == 0 || integer > 1 && s[0] == '0' {
		return false
	}
	s = s[integer:]
	if strings.HasPrefix(s, ".") {
		n := digits(s[1:])
		if n == 0 {
			return false
		}
		s = s[1+n:]
	}
	if s != "" && (s[0] == 'e' || s[0] == 'E') {
		s = s[1:]
		if s != "" && (s[0] == '+' || s[0] == '-') {
			s = s[1:]
		}
		n := digits(s)
		if n == 0 {
			return false
		}
		s = s[n:]
	}
	return s == ""
}

// digits returns how many digits s begins with.
func digits(s string) (n int) {
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return n
}

// Whole parses a number, see IsNumber, that is a whole number from 0 to 2^53, in any
// notation: 1000, 1e3 and 1000.0 are the same.
func Whole(number string) (n int64, problem string) {
	const tooLarge = "must be at most " + amount.MaxText
	if number[0] == '-' {
		return 0, "must not be negative"
	}
	mantissa, exponent := number, 0
	if i := strings.IndexAny(number, "eE"); i >= 0 {
		const limit = math.MaxInt32 // Atoi returns the bound of an int if it overflows
		e, _ := strconv.Atoi(number[i+1:])
		mantissa, exponent = number[:i], max(-limit, min(e, limit))
	}
	integer, fraction, decimals := strings.Cut(mantissa, ".")
	if !decimals && exponent == 0 && len(integer) < 16 { // the usual case, which allocates nothing
		for i := range len(integer) {
			n = 10*n + int64(integer[i]-'0')
		}
		return n, ""
	}
	digits := strings.TrimLeft(integer+fraction, "0")
	significant := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(significant) - len(fraction)
	switch {
	case significant == "":
		return 0, ""
	case exponent < 0:
		return 0, "must be a whole number"
	case len(significant)+exponent > 16: // 2^53 has 16 digits
		return 0, tooLarge
	}
	n, err := strconv.ParseInt(significant+strings.Repeat("0", exponent), 10, 64)
	if err != nil || n > amount.Max {
		return 0, tooLarge
	}
	return n, ""
}

// Seconds parses a number, see IsNumber, of seconds up to the longest that a call may wait. It
// need not be whole.
func Seconds(number string) (d time.Duration, problem string) {
	seconds, err := strconv.ParseFloat(number, 64)
	switch {
	case number[0] == '-':
		return 0, "must not be negative"
	case err != nil || seconds > limiter.MaxMaxWait.Seconds():
		return 0, fmt.Sprintf("must be at most %v", limiter.MaxMaxWait.Seconds())
	}
	return time.Duration(math.Round(seconds * 1e9)), ""
}

// Class parses the name of a class.
func Class(name string) (p pb.Priority, problem string) {
	class, err := limiter.ParsePriority(name)
	if err != nil {
		return 0, "must be interactive, standard or batch"
	}
	return pb.Priority(class), "" // they have the same numbers
}

// Show returns a number as messages show it.
func Show(number string) string {
	if len(number) > text.MaxShown {
		return fmt.Sprintf("%s... (%d digits)", number[:text.MaxShown], len(number))
	}
	return number
}
