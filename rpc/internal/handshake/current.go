// SPDX-License-Identifier: Apache-2.0

//go:build !bucketring_next && !bucketring_breaking

package handshake

// Increase protocolVersion with every change of what members say to each other, and
// minimumVersion to the last version with which a build can still talk.
const (
	protocolVersion = 1
	minimumVersion  = 1
)
