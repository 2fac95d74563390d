// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"net/http"
	"strings"

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/server"
)

// Forgotten is the answer to an operator who has a member forgotten.
type Forgotten struct {
	Member string `json:"member"`
	// Forgotten: the vote of the member does not count any more. Otherwise the others have
	// not agreed yet, and the node goes on asking them.
	Forgotten bool `json:"forgotten"`
	// Forced: without the votes of others.
	Forced bool `json:"forced"`
	// Roster are the members whose votes count. Of them, Answering answer the node that was
	// asked, itself included, and Spare may be lost before there is no majority.
	Roster    []string `json:"roster"`
	Answering int      `json:"answering"`
	Spare     int      `json:"spare"`
	// Message says all that in words.
	Message string `json:"message"`
}

// UnknownMemberError says that no member has a name. Known are the names that there are.
type UnknownMemberError struct {
	Name  string
	Known []string
}

func (e *UnknownMemberError) Error() string {
	hint := nearest.DidYouMean(e.Name, e.Known)
	return "member: no member has the name " + text.Quote(e.Name) + hint + "; members are " + strings.Join(e.Known, ", ")
}

func (e *UnknownMemberError) problem() *problem {
	return &problem{status: http.StatusNotFound, Code: "unknown_member", Field: "member", Message: e.Error(), why: server.InvalidField}
}

// ForgetRefusedError says why a member is not forgotten.
type ForgetRefusedError struct{ Reason string }

func (e *ForgetRefusedError) Error() string { return e.Reason }

// forgetMember has a member forgotten that will not come back.
func (a *api) forgetMember(w http.ResponseWriter, r *http.Request) error {
	var member string
	var force bool
	if err := a.readBody(w, r, []field{{"member", &member}, {"force", &force}}); err != nil {
		return err
	}
	if member == "" {
		return invalid("member", "must be given")
	}
	answer, err := a.forget(withRemote(r), member, force)
	if unknown, ok := errors.AsType[*UnknownMemberError](err); ok {
		return unknown.problem()
	}
	if refused, ok := errors.AsType[*ForgetRefusedError](err); ok {
		return &problem{status: http.StatusConflict, Code: "refused", Message: refused.Error()}
	}
	if err != nil {
		return &problem{status: http.StatusServiceUnavailable, Code: "unavailable", Message: err.Error()}
	}
	status := http.StatusOK
	if !answer.Forgotten {
		status = http.StatusAccepted
	}
	a.write(w, status, answer)
	return nil
}
