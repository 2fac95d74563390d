// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"strconv"
	"time"
)

// Facts are the members of a JSON error body that describe a denial. Numbers of a hidden
// limit are left out.
type Facts struct {
	Reason            string          `json:"reason,omitempty"`
	RetryAfterSeconds json.RawMessage `json:"retry_after_seconds,omitempty"`
	Limit             *int64          `json:"limit,omitempty"`
	Remaining         *int64          `json:"remaining,omitempty"`
	ResetAt           string          `json:"reset_at,omitempty"`
	Dimension         string          `json:"dimension,omitempty"`
	Name              string          `json:"name,omitempty"`
	Scope             string          `json:"scope,omitempty"`
	Model             string          `json:"model,omitempty"` // whose calls the limit counts; "": all models'
}

// FactsOf returns the facts of a denial. They point into d.
func FactsOf(d *Decision) Facts {
	f := Facts{Reason: d.Reason}
	if d.RetryAfter >= 0 {
		f.RetryAfterSeconds = Seconds(d.RetryAfter)
	}
	if d.Reason == noPrice {
		f.Model = d.Model
	}
	l := d.Binding
	if l == nil {
		return f
	}
	f.Dimension, f.Name, f.Scope = l.Dimension, l.Name, l.Scope
	if l.PerModel {
		f.Model = d.Model
	}
	if !l.Hidden {
		f.Limit, f.Remaining = &l.Limit, &l.Remaining
		f.ResetAt = FormatTime(l.ResetAt)
	}
	return f
}

// FormatTime formats t in RFC 3339 and UTC, rounded up to the millisecond. The zero
// time is "".
func FormatTime(t time.Time) string { return string(AppendTime(make([]byte, 0, 32), t)) }

// AppendTime appends what FormatTime returns.
func AppendTime(to []byte, t time.Time) []byte {
	if t.IsZero() {
		return to
	}
	return t.UTC().Add(time.Millisecond-1).Truncate(time.Millisecond).AppendFormat(to, "2006-01-02T15:04:05.999Z07:00")
}

// Seconds is d as a decimal number of seconds, rounded up to the millisecond.
func Seconds(d time.Duration) []byte { return AppendSeconds(make([]byte, 0, 16), d) }

// AppendSeconds appends what Seconds returns.
func AppendSeconds(text []byte, d time.Duration) []byte {
	ms := int64(Ceil(d, time.Millisecond) / time.Millisecond)
	text = strconv.AppendInt(text, ms/1000, 10)
	if rest := ms % 1000; rest > 0 {
		text = append(text, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
		for text[len(text)-1] == '0' {
			text = text[:len(text)-1]
		}
	}
	return text
}
