// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/redcon"
	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// The codes that errors begin with, by which clients tell them apart.
const (
	codeERR       = "ERR"
	codeNoAuth    = "NOAUTH"    // who calls is not known
	codeWrongPass = "WRONGPASS" // AUTH failed
	codeNoPerm    = "NOPERM"
	codeTryAgain  = "TRYAGAIN" // no decision could be made; some clients try again by themselves
	codeNoProto   = "NOPROTO"
)

// problem is an error that is answered.
type problem struct {
	code    string
	message string
	why     server.Rejection // "": it was a call, which its service has counted
}

// append appends the problem as an error of the protocol.
func (p *problem) append(b []byte) []byte {
	return redcon.AppendError(b, p.code+" "+p.message)
}

// invalid rejects a field: "requests: must not be negative, got -1".
func invalid(field, what string) *problem {
	return &problem{code: codeERR, message: field + ": " + what, why: server.InvalidField}
}

func failed(message string) *problem { return &problem{code: codeERR, message: message} }

func wrongArguments(command string) *problem {
	return &problem{code: codeERR, message: "wrong number of arguments for '" + command + "' command", why: server.BadMessage}
}

var (
	internalProblem = failed("internal error; see the log of the node")
	needsAuth       = &problem{code: codeNoAuth, message: "Authentication required: send AUTH with a token, or show a client certificate"}
)

// problemOf converts an error of the service. It is nil for an internal error.
func problemOf(e *pb.Error) *problem {
	p := &problem{code: codeERR, message: e.GetMessage()}
	what := "" // by the names of the HTTP API
	switch codes.Code(e.GetCode()) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.Canceled, codes.Aborted:
	case codes.NotFound:
		what = server.ReasonUnknownReservation
	case codes.AlreadyExists:
		what = server.ReasonConflict
	case codes.ResourceExhausted:
		if e.GetRetryAfterMs() == 0 {
			return nil
		}
		p.code, what = codeTryAgain, server.ReasonOverloaded
	case codes.Unavailable, codes.DeadlineExceeded:
		p.code, what = codeTryAgain, "unavailable"
	case codes.Unauthenticated:
		p.code = codeNoAuth
	case codes.PermissionDenied:
		p.code = codeNoPerm
	default:
		return nil
	}
	if what != "" {
		p.message = what + ": " + strings.TrimPrefix(p.message, what+": ")
	}
	return p
}

// refusedProblem is the problem of credentials that are not accepted.
func refusedProblem(err error) *problem {
	e, ok := errors.AsType[*auth.Error](err)
	if !ok {
		return &problem{code: codeNoAuth, message: err.Error()}
	}
	p := &problem{code: codeNoPerm, message: e.Message}
	switch e.Code {
	case codes.Unauthenticated:
		p.code = codeWrongPass
	case codes.ResourceExhausted:
		p.code, p.message = codeTryAgain, e.Message+" after "+e.RetryAfter.Round(time.Second).String()
	}
	return p
}

// unknownCommand is the problem of a command that there is not, in the form that clients know
// from Redis, with the command that was probably meant.
func (s *Server) unknownCommand(args []string) *problem {
	var message strings.Builder
	message.WriteString("unknown command '" + shown(args[0]) + "', with args beginning with: ")
	for _, arg := range args[1:min(len(args), 4)] {
		message.WriteString("'" + shown(arg) + "' ")
	}
	names := make([]string, len(s.commands))
	for i := range s.commands {
		names[i] = s.commands[i].name
	}
	message.WriteString(nearest.DidYouMean(args[0], names))
	return &problem{code: codeERR, message: message.String(), why: server.UnknownPath}
}

// shown returns an argument as a message of Redis shows it, without control characters.
func shown(arg string) string {
	quoted := strconv.Quote(text.Shorten(arg, text.MaxShown))
	return quoted[1 : len(quoted)-1]
}
