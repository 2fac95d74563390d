// SPDX-License-Identifier: Apache-2.0

package tlsfiles

import "github.com/bucketring/bucketring/internal/tlserror"

// Remedy returns what to do about an error of TLS, or "" if it is none that is known.
func Remedy(err error) string { return tlserror.Remedy(err) }
