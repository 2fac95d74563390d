// SPDX-License-Identifier: Apache-2.0

// Package servicetier says which names of a model's service tiers nodes accept. A client
// must know, because a report with another name is refused as a whole.
package servicetier

// MaxBytes is the length of the longest name.
const MaxBytes = 64

// Problem returns what is wrong with a name, to follow the name of a field, or "". An
// empty name is valid and names no service tier.
func Problem(name string) string {
	if len(name) > MaxBytes {
		return "must be at most 64 bytes"
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] > '~' {
			return "must be printable ASCII"
		}
	}
	return ""
}
