// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/replication"
)

// forgetTimeout bounds [Node.Forget].
const forgetTimeout = 10 * time.Second

// Forget has a member forgotten that will not come back: see [replication.Host.Forget]. It
// waits for the votes of others for a short time only. It is written to the audit log.
func (n *Node) Forget(ctx context.Context, member string, force bool) (a httpapi.Forgotten, err error) {
	err = n.admin.Forget(ctx, member, force, func() (bool, error) {
		a, err = n.forget(ctx, member, force)
		return a.Forgotten, err
	}, func(err error) bool {
		_, unknown := errors.AsType[*httpapi.UnknownMemberError](err)
		_, refused := errors.AsType[*httpapi.ForgetRefusedError](err)
		return unknown || refused
	})
	if s, ok := grpcstatus.FromError(err); ok && err != nil { // the audit log cannot be written
		err = errors.New(s.Message())
	}
	return a, err
}

func (n *Node) forget(ctx context.Context, member string, force bool) (httpapi.Forgotten, error) {
	ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	f, err := n.replication.Forget(ctx, member, force)
	if unknown, ok := errors.AsType[*replication.UnknownMemberError](err); ok {
		return httpapi.Forgotten{}, &httpapi.UnknownMemberError{Name: unknown.Name, Known: unknown.Known}
	}
	if refused, ok := errors.AsType[*replication.RefusedError](err); ok {
		return httpapi.Forgotten{}, &httpapi.ForgetRefusedError{Reason: refused.Error()}
	}
	if err != nil {
		return httpapi.Forgotten{}, err
	}
	a := httpapi.Forgotten{
		Member: member, Forgotten: f.Done, Forced: f.Forced, Roster: f.Roster.Names, Answering: f.Answering,
		Spare: max(0, f.Answering-(len(f.Roster.Names)/2+1)),
	}
	a.Message = forgottenMessage(&a, f.After)
	return a, nil
}

// forgottenMessage says what an answer means.
func forgottenMessage(a *httpapi.Forgotten, after time.Duration) string {
	if !a.Forgotten {
		return fmt.Sprintf("%s still counts: the others vote for its removal once its ports refuse connections, or it has not answered them for %s",
			a.Member, after.Round(time.Second))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s is forgotten. ", a.Member)
	switch n := len(a.Roster); {
	case n == 1:
		fmt.Fprintf(&b, "%s is the only member now, and decides alone: a charge that is lost with it is lost", a.Roster[0])
	case a.Answering < n/2+1:
		fmt.Fprintf(&b, "%d members count now (%s), of which %d answer: they decide nothing exactly before %d do", n, strings.Join(a.Roster, ", "), a.Answering, n/2+1)
	case a.Spare == 0:
		fmt.Fprintf(&b, "%d members count now (%s), of which %d answer: none of them may be lost", n, strings.Join(a.Roster, ", "), a.Answering)
	default:
		fmt.Fprintf(&b, "%d members count now (%s), of which %d answer: the cluster may lose %d of them", n, strings.Join(a.Roster, ", "), a.Answering, a.Spare)
	}
	return b.String()
}
