// SPDX-License-Identifier: Apache-2.0

package handshake

import (
	"fmt"

	"google.golang.org/grpc/codes"
)

// Versions are the versions of the protocol between members that one build
// understands: Minimum to Protocol.
type Versions struct {
	Protocol uint32 // the one that it speaks to members that understand it
	Minimum  uint32
}

// Current are the versions that this build understands.
func Current() Versions { return Versions{Protocol: protocolVersion, Minimum: minimumVersion} }

func (v Versions) String() string {
	switch v {
	case Versions{}:
		return "protocol 0, from before members told their versions"
	case Versions{v.Protocol, v.Protocol}:
		return fmt.Sprintf("protocol %d only", v.Protocol)
	}
	return fmt.Sprintf("protocols %d to %d", v.Minimum, v.Protocol)
}

// common returns the version that two builds speak with each other.
func (v Versions) common(other Versions) (uint32, bool) {
	both := min(v.Protocol, other.Protocol)
	return both, both > 0 && both >= v.Minimum && both >= other.Minimum
}

// checkVersions returns the version to speak with another member, or why there is
// none. Both sides come to the same result.
func checkVersions(own Versions, who string, other Versions) (uint32, error) {
	version, ok := own.common(other)
	if ok {
		return version, nil
	}
	older := "this member"
	if other.Protocol < own.Protocol {
		older = who
	}
	return 0, reject(WrongVersion, codes.FailedPrecondition,
		"%s speaks %s, and this member %s: upgrade %s, if need be first to a version in between that speaks with both", who, other, own, older)
}
