// SPDX-License-Identifier: Apache-2.0

package config

import "sync"

// ChoicesAnnotation is the annotation of a flag whose value is one of a fixed set, with that
// set, for the completion of shells. [AddFlags] sets it.
const ChoicesAnnotation = "bucketring_choices"

// choices has the values of all settings that have a fixed set of them, by their keys.
var choices = sync.OnceValue(func() map[string][]string {
	all := map[string][]string{}
	for _, fields := range [][]field{(&Config{}).fields(), (&StandaloneProxy{}).fields()} {
		for _, f := range fields {
			if f.choices != nil {
				all[f.key] = f.choices
			}
		}
	}
	return all
})

// Choices returns the values that the setting with a key may have; nil if they are not a fixed
// set.
func Choices(key string) []string { return choices()[key] }
