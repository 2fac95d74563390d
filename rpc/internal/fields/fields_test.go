// SPDX-License-Identifier: Apache-2.0

package fields_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/fields"
)

// TestWholeNumbers: a whole number is accepted in any notation.
func TestWholeNumbers(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int64
	}{
		{"0", 0},
		{"1000", 1000},
		{"1e3", 1000},
		{"1E+3", 1000},
		{"1000.0", 1000},
		{"1.5e1", 15},
		{"1200e-2", 12},
		{"0e999999999999999999999", 0},
		{"0.000", 0},
		{"9007199254740992", 1 << 53},
		{"9.007199254740992e15", 1 << 53},
		{"90071992547409920e-1", 1 << 53},
	} {
		if got, wrong := fields.Whole(tt.text); got != tt.want || wrong != "" {
			t.Errorf("Whole(%s) = %d, %q, want %d", tt.text, got, wrong, tt.want)
		}
	}
	for _, text := range []string{
		"-0", "-1", "1.5", "0.1e0", "1e-1", "1e-999999999999999999999", "1e16", "1e999999999999999999999", "9007199254740993", "9007199254740992.5",
	} {
		if got, wrong := fields.Whole(text); wrong == "" {
			t.Errorf("Whole(%s) = %d, want a problem", text, got)
		}
	}
}

// FuzzNumbers: what is a number is one for JSON, and none makes a parser fail.
func FuzzNumbers(f *testing.F) {
	for _, s := range []string{"", "-", "0", "-0", "01", "1.", ".5", "1e", "1e+", "1e5", "-12.5E-3", "1x", "+1", "0x1", "1 ", "Infinity", "007"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var n json.Number
		valid := len(s) > 0 && s[0] != '"' && s != "null" && json.Unmarshal([]byte(s), &n) == nil && n.String() == s
		if got := fields.IsNumber(s); got != valid {
			t.Fatalf("IsNumber(%q) = %v, want %v", s, got, valid)
		}
		if !valid {
			return
		}
		if n, problem := fields.Whole(s); problem == "" && (n < 0 || n > 1<<53) {
			t.Errorf("Whole(%q) = %d", s, n)
		}
		if d, problem := fields.Seconds(s); problem == "" && d < 0 {
			t.Errorf("Seconds(%q) = %v", s, d)
		}
	})
}

func TestSeconds(t *testing.T) {
	for _, tt := range []struct {
		text string
		want time.Duration
		ok   bool
	}{
		{"0", 0, true}, {"1.5", 1500 * time.Millisecond, true}, {"1e-9", 1, true}, {"-1", 0, false}, {"1e9", 0, false}, {"1e999", 0, false},
	} {
		if d, problem := fields.Seconds(tt.text); d != tt.want || (problem == "") != tt.ok {
			t.Errorf("Seconds(%s) = %v, %q, want %v", tt.text, d, problem, tt.want)
		}
	}
}

func TestClass(t *testing.T) {
	for _, name := range []string{"interactive", "standard", "batch"} {
		if p, problem := fields.Class(name); problem != "" || p == 0 {
			t.Errorf("Class(%s) = %v, %q", name, p, problem)
		}
	}
	if _, problem := fields.Class("urgent"); problem == "" {
		t.Error("Class(urgent) has no problem")
	}
}
