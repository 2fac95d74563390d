// SPDX-License-Identifier: Apache-2.0

package handshake

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
)

// The results of a handshake, as labels.
const (
	OK               = "ok"
	NoKey            = "no_key"            // one side has a cluster key, the other shows none
	WrongKey         = "wrong_key"         // both have one, with nothing in common
	WrongCertificate = "wrong_certificate" // the caller's connection has no certificate for its name
	WrongMember      = "wrong_member"      // another member or boot answers at the address
	WrongVersion     = "wrong_version"     // there is no version of the protocol that both understand
	Malformed        = "malformed"
	Broken           = "broken" // the connection
)

// Results lists all results.
var Results = [...]string{OK, NoKey, WrongKey, WrongCertificate, WrongMember, WrongVersion, Malformed, Broken}

// The sides of a handshake, as labels.
const (
	Caller = "caller"
	Owner  = "owner"
)

// Rejection is why a handshake failed. Its text says what to do.
type Rejection struct {
	Result string // one of Results
	code   codes.Code
	text   string
}

func (e *Rejection) Error() string { return e.text }

// GRPCStatus is how grpc-go finds out what to send.
func (e *Rejection) GRPCStatus() *grpcstatus.Status { return grpcstatus.New(e.code, e.text) }

func reject(result string, code codes.Code, format string, args ...any) *Rejection {
	return &Rejection{result, code, fmt.Sprintf(format, args...)}
}

// TimedOut returns the rejection of a side that took longer than a limit.
func TimedOut(limit fmt.Stringer) *Rejection {
	return reject(Broken, codes.DeadlineExceeded, "the handshake took more than %s", limit)
}

// ResultOf returns the result of a handshake that ended with an error, or with nil.
// It also knows the errors that the other side has sent.
func ResultOf(err error) string {
	if err == nil {
		return OK
	}
	if wrong, ok := errors.AsType[*Rejection](err); ok {
		return wrong.Result
	}
	switch grpcstatus.Code(err) {
	case codes.Unauthenticated:
		return NoKey
	case codes.PermissionDenied:
		return WrongKey
	case codes.FailedPrecondition:
		return WrongMember
	}
	return Broken
}
