// SPDX-License-Identifier: Apache-2.0

//go:build bucketring_next

package handshake

// With the tag bucketring_next, a build claims to speak a later protocol and to
// understand the present one. For tests of clusters with two versions.
const (
	protocolVersion = 2
	minimumVersion  = 1
)
