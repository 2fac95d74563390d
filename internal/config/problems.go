// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/nearest"
)

// problems collects an error for each setting that cannot be used.
type problems []error

// add reports a problem of the setting with a key.
func (p *problems) add(key, format string, args ...any) {
	*p = append(*p, fmt.Errorf(key+": "+format, args...))
}

// oneOf requires that the value of a setting is one of its choices.
func (p *problems) oneOf(key, value string) {
	allowed := Choices(key)
	if slices.Contains(allowed, value) {
		return
	}
	hint := ""
	if near := nearest.Word(value, allowed); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	p.add(key, "must be %s, got %q%s", strings.Join(allowed, ", "), value, hint)
}

func (p *problems) notNegative(key string, d time.Duration) {
	if d < 0 {
		p.add(key, "must not be negative, got %s", d)
	}
}

func (p *problems) atLeastOne(key string, n int) {
	if n < 1 {
		p.add(key, "must be at least 1, got %d", n)
	}
}

// distinct requires that two settings have different addresses. Port 0 is always
// different.
func (p *problems) distinct(key, address, otherKey, other string) {
	if address == other && !strings.HasSuffix(address, ":0") {
		p.add(key, "must differ from %s, got %s twice", flagName(otherKey), address)
	}
}

func (p *problems) log(level, format string) {
	p.oneOf("log_level", level)
	p.oneOf("log_format", format)
}
