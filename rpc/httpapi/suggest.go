// SPDX-License-Identifier: Apache-2.0

package httpapi

import "github.com/bucketring/bucketring/internal/nearest"

// didYouMean names the candidate that is a typing mistake away from name.
func didYouMean(name string, candidates []string) string {
	if near := nearest.Word(name, candidates); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}
