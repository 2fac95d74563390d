// SPDX-License-Identifier: Apache-2.0

//go:build bucketring_breaking && !bucketring_next

package handshake

// With the tag bucketring_breaking, a build claims to speak a later protocol only.
// For tests of members that refuse each other.
const (
	protocolVersion = 2
	minimumVersion  = 2
)
