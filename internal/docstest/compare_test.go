// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// volatile lists texts that differ between runs, and their replacements.
var volatile = []struct {
	pattern     *regexp.Regexp
	replacement string
}{
	{regexp.MustCompile(`"request_id":"[0-9a-f]{32}"`), `"request_id":"ID"`},
	{regexp.MustCompile(`request [0-9a-f]{32}`), `request ID`},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)`), `TIME`},
	{regexp.MustCompile(`^Date: .*$`), `Date: DATE`},
	{regexp.MustCompile(`^Content-Length: \d+$`), `Content-Length: N`},
	{regexp.MustCompile(`^X-Ratelimit-Reset: \d+$`), `X-Ratelimit-Reset: UNIX`},
	{regexp.MustCompile(`\bin [0-9.dhms]+`), `in DURATION`},
	{regexp.MustCompile(`\[#*\.*\]`), `BAR`},
	{regexp.MustCompile(` +`), ` `},
	{regexp.MustCompile(`(127\.0\.0\.1|localhost):6470`), `HTTP`},
	{regexp.MustCompile(`(127\.0\.0\.1|localhost):6471`), `GRPC`},
}

// drifting matches numbers that change while the commands run, because buckets
// refill. They may differ by a tenth of the limit before them, or else of their own
// value.
var drifting = regexp.MustCompile(
	`"limit":(\d+),"remaining":(\d+)` +
		`|X-Ratelimit-Remaining[-\w]*: ()([0-9]+)` +
		`|X-Ratelimit-Reset-\w+: ()([0-9.]+)s` +
		`|Retry-After: ()(\d+)` +
		`|"retry_after_seconds":()([0-9.]+)` +
		`|exceeded: ()([0-9,]+) of`)

// sameLine compares a line of a document with a line of output.
func sameLine(want, got string) bool {
	want, prefixOnly := strings.CutSuffix(normalize(want), "...")
	got = normalize(got)
	wantNumbers, wantText := drift(want)
	gotNumbers, gotText := drift(got)
	if wantText != gotText && (!prefixOnly || !strings.HasPrefix(gotText, wantText)) {
		return false
	}
	for i, w := range wantNumbers {
		if i >= len(gotNumbers) || gotNumbers[i].value < w.value-w.slack || gotNumbers[i].value > w.value+w.slack {
			return false
		}
	}
	return true
}

func normalize(line string) string {
	for _, v := range volatile {
		line = v.pattern.ReplaceAllString(line, v.replacement)
	}
	return strings.TrimRight(line, " ")
}

type number struct{ value, slack float64 }

// drift splits a line into its drifting numbers and the remaining text.
func drift(line string) (numbers []number, text string) {
	var b strings.Builder
	end := 0
	for _, m := range drifting.FindAllStringSubmatchIndex(line, -1) {
		for g := 2; g < len(m); g += 4 {
			if m[g] < 0 {
				continue
			}
			value := parse(line[m[g+2]:m[g+3]])
			scale := value
			if m[g+1] > m[g] {
				scale = parse(line[m[g]:m[g+1]])
			}
			numbers = append(numbers, number{value, max(1, scale/10)})
			b.WriteString(line[end:m[g+2]])
			end = m[g+3]
		}
	}
	b.WriteString(line[end:])
	return numbers, b.String()
}

func parse(digits string) float64 {
	f, err := strconv.ParseFloat(strings.ReplaceAll(digits, ",", ""), 64)
	if err != nil {
		panic(err) // the pattern matched digits
	}
	return f
}

// sameOutput compares line by line. A line "..." of the document matches any number
// of lines, and "..." at the end of a line matches its rest.
func sameOutput(want, got []string) error {
	for len(want) > 0 {
		if want[0] == "..." {
			for skip := 0; skip <= len(got); skip++ {
				if sameOutput(want[1:], got[skip:]) == nil {
					return nil
				}
			}
			return fmt.Errorf("no output matches what follows the dots: %q", want[1:])
		}
		if len(got) == 0 {
			return fmt.Errorf("want a line %q, got the end of the output", want[0])
		}
		if !sameLine(want[0], got[0]) {
			return fmt.Errorf("want line %q\n got line %q", want[0], got[0])
		}
		want, got = want[1:], got[1:]
	}
	if len(got) > 0 {
		return fmt.Errorf("want no more lines, got %q", got)
	}
	return nil
}
