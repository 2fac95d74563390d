// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

// TestStartMistakes checks that a start in another notation or place is answered with the
// text to write.
func TestStartMistakes(t *testing.T) {
	const dayLong = `write window: day, starts: "09:00"`
	for _, tt := range []struct{ limit, want string }{
		{`window: day at 9`, dayLong},
		{`window: day at 9am`, dayLong},
		{`window: day at 09:00`, dayLong},
		{`window: "day, starts: 09:00"`, dayLong},
		{`window: daily at 09:00`, dayLong},
		{`window: day starts 09:00`, dayLong},
		{`window: day starting at 9 AM`, dayLong},
		{`window: Day @9h`, dayLong},
		{`window: 24h from 9.00`, dayLong},
		{`window: 1d at 09:00`, dayLong},
		{`window: day at 9pm`, `write window: day, starts: "21:00"`},
		{`window: day at 12am`, `write window: day, starts: "00:00"`},
		{`window: day at noon`, `write window: day, starts: "12:00"`},
		{`window: day at 25:00`, `write window: day, starts with a time from "00:00" to "23:59"`},
		{`window: day at 9:75`, `starts with a time from "00:00" to "23:59"`},
		{`window: day at 13pm`, `starts with a time from "00:00" to "23:59"`},
		{`window: "month, starts: 31"`, "write window: month, starts: 31"},
		{`window: month from 15`, "write window: month, starts: 15"},
		{`window: month on the 15th`, "write window: month, starts: 15"},
		{`window: monthly from the 1st`, "write window: month, starts: 1"},
		{`window: month from 32`, "write window: month, starts with a day from 1 to 31"},
		{`window: month at the last day`, "write window: month, starts: 31"},
		{`window: week from sunday`, "a week begins on Monday"},
		{`window: daily`, `did you mean "day"?`},
		{`window: Monthly`, `did you mean "month"?`},
		{`window: days at`, "window must be second, minute"},

		{`window: day, starts: 9am`, `got "9am"; did you mean "09:00"?`},
		{`window: day, starts: 9`, `got "9"; did you mean "09:00"?`},
		{`window: day, starts: "9:00 pm"`, `did you mean "21:00"?`},
		{`window: day, starts: "25:00"`, `starts must be a time of the day from "00:00" to "23:59", got "25:00"`},
		{`window: day, starts: "24:00"`, `from "00:00" to "23:59", got "24:00"`},
		{`window: day, starts: morning`, `from "00:00" to "23:59", got "morning"`},
		{`window: month, starts: 15th`, `got "15th"; did you mean "15"?`},
		{`window: month, starts: 0`, `starts must be a day of the month from 1 to 31, got "0"`},
		{`window: month, starts: 32`, `from 1 to 31, got "32"`},
		{`window: month, starts: "09:00"`, `from 1 to 31, got "09:00"`},
		{`window: 24h, starts: "09:00"`, `got window "24h", which is a length: write month or day`},
		{`window: week, starts: 2`, "starts is for windows of a month or a day, got window week"},

		{`window: day, at: "25:00"`, `unknown key "at" in a limit of tier t; did you mean "starts"?`},
		{`window: month, from: 15`, `unknown key "from" in a limit of tier t; did you mean "starts"?`},
		{`window: month, resets: 15`, `did you mean "starts"?`},
	} {
		_, err := Parse("p.yaml", []byte("tiers: { t: { limits: [{ dimension: tokens, limit: 10, "+tt.limit+" }] } }\n"), limiter.NewCatalog())
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.limit, err, tt.want)
		}
	}
	for limit, want := range map[string]string{
		"tokens: 1000/day at 9":        `write { dimension: tokens, limit: 1000, window: day, starts: "09:00" } under limits`,
		"spend: $5/month from the 2nd": "write { dimension: spend, limit: $5, window: month, starts: 2 } under limits",
	} {
		if _, err := Parse("p.yaml", []byte("tiers: { t: { "+limit+" } }\n"), limiter.NewCatalog()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", limit, err, want)
		}
	}
	for _, limit := range []string{`window: month, starts: 31`, `window: day, starts: "09:00"`, `window: day, starts: 09:00`, `window: day, starts: "9:00"`} {
		if _, err := Parse("p.yaml", []byte("tiers: { t: { limits: [{ dimension: tokens, limit: 10, "+limit+" }] } }\n"), limiter.NewCatalog()); err != nil {
			t.Errorf("%s: %v, want no problem", limit, err)
		}
	}
}
