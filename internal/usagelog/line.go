// SPDX-License-Identifier: Apache-2.0

package usagelog

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// timeFormat has all digits, so that times in UTC are in the order of their texts.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// appendLine appends the line of a charge by a node, with its newline. Numbers of tokens that
// every call has are always there, and the others if they are not 0.
func appendLine(b []byte, node string, c *limiter.Charged) []byte {
	b = appendTime(append(b, `{"settled_at":`...), c.At)
	b = appendText(append(b, `,"node":`...), node)
	b = appendText(append(b, `,"outcome":`...), outcome(c.Status))
	if c.Late {
		b = append(b, `,"late":true`...)
	}
	root, _, _ := bytes.Cut(c.Key, []byte{'/'})
	b = appendText(append(b, `,"root":`...), root)
	b = appendText(append(b, `,"key":`...), c.Key)
	b = appendText(append(b, `,"request_id":`...), c.ID)
	b = appendText(append(b, `,"tier":`...), c.Tier)
	if len(c.Model) > 0 {
		b = appendText(append(b, `,"model":`...), c.Model)
	}
	if len(c.ServiceTier) > 0 {
		b = appendText(append(b, `,"service_tier":`...), c.ServiceTier)
	}
	if c.ReservedAt != 0 {
		b = appendTime(append(b, `,"reserved_at":`...), c.ReservedAt)
	}
	if c.Rejected {
		b = append(b, `,"rejected":true`...)
	}
	b = appendInt(b, "requests", c.Requests)
	b = appendInt(b, "input_tokens", c.Input)
	for _, n := range [...]struct {
		name  string
		value int64
	}{{"cached_input_tokens", c.Cached}, {"cache_write_tokens", c.CacheWrite}, {"cache_write_1h_tokens", c.CacheWrite1h}} {
		if n.value != 0 {
			b = appendInt(b, n.name, n.value)
		}
	}
	b = appendInt(b, "output_tokens", c.Output)
	b = appendInt(b, "tokens", c.Tokens)
	if c.Images != 0 {
		b = appendInt(b, "images", c.Images)
	}
	if c.Searches != 0 {
		b = appendInt(b, "searches", c.Searches)
	}
	if c.Priced {
		b = append(append(b, `,"dollars":"`...), dollars(c.Spend)...)
		b = append(b, '"')
	}
	for i := range c.Costs {
		begin := `,"costs":{`
		if i > 0 {
			begin = ","
		}
		b = append(appendText(append(b, begin...), c.Costs[i].Dimension), ':')
		b = strconv.AppendInt(b, c.Costs[i].Amount, 10)
	}
	if len(c.Costs) > 0 {
		b = append(b, '}')
	}
	const hex = "0123456789abcdef"
	b = append(b, `,"policy_version":"`...)
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, hex[c.PolicyVersion>>shift&0xf])
	}
	return append(b, "\"}\n"...)
}

// outcome names how a call was charged.
func outcome(s limiter.Status) string {
	if s == limiter.NoStatus {
		return "checked"
	}
	return s.String()
}

// dollars returns an amount of microdollars, which is not negative, with all its digits.
func dollars(micros int64) string {
	text := strconv.FormatInt(micros%1e6+1e6, 10)
	return strconv.FormatInt(micros/1e6, 10) + "." + text[1:]
}

func appendInt(b []byte, name string, n int64) []byte {
	b = append(append(append(b, `,"`...), name...), `":`...)
	return strconv.AppendInt(b, n, 10)
}

func appendTime(b []byte, unixNanos int64) []byte {
	b = time.Unix(0, unixNanos).UTC().AppendFormat(append(b, '"'), timeFormat)
	return append(b, '"')
}

// appendText appends a JSON string.
func appendText[T string | []byte](b []byte, s T) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := json.Marshal(string(s)) // a string has no error
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
