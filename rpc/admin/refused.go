// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"net/netip"
	"strings"
	"time"

	grpcpeer "google.golang.org/grpc/peer"

	"github.com/bucketring/bucketring/internal/audit"
	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/share"
)

// Refused writes an attempt to the audit log that was refused before it came here, because of
// its credentials or scopes. Its key is not known: nothing of the call was read.
func (s *Service) Refused(a *auth.Attempt) {
	s.refuse(&audit.Entry{Action: a.Action, Caller: callerAt(a.Caller, a.Remote), Error: a.Reason}, a.Address)
}

// callerAt is how the audit log shows a caller who has a name, or none, at an address.
func callerAt(name, remote string) string {
	switch {
	case name == "" && remote == "":
		return "unknown"
	case name == "":
		return remote
	case remote == "":
		return name
	}
	return name + " at " + remote
}

// maxRefusedText bounds the texts of a refused attempt, in bytes.
const maxRefusedText = 512

// refuse writes an attempt of a caller at an address who may not administer the node. A flood
// of them is not written in full.
func (s *Service) refuse(e *audit.Entry, address netip.Addr) {
	s.calls.WithLabelValues(e.Action, resultRefused).Inc()
	for _, text := range []*string{&e.Key, &e.Tier, &e.Model, &e.Limit, &e.Reservation, &e.RequestID, &e.Target, &e.Error} { // not checked yet
		if len(*text) > maxRefusedText {
			*text = strings.ToValidUTF8((*text)[:maxRefusedText], "") + "..."
		}
	}
	s.stamp(e, resultRefused)
	omitted, err := s.o.Audit.WriteRefused(e, address, s.now())
	if omitted {
		s.omitted.Inc()
		s.losses.Lock()
		s.losses.Omitted++
		s.losses.Unlock()
	}
	s.wrote(e, err)
}

// addressOf returns the address by which refused attempts of the caller are counted.
func addressOf(ctx context.Context) netip.Addr {
	if p, ok := grpcpeer.FromContext(ctx); ok {
		return share.Address(p.Addr)
	}
	return netip.Addr{}
}

// stamp completes an entry.
func (s *Service) stamp(e *audit.Entry, result string) {
	e.Time, e.Member, e.Result = s.now().UTC().Format(time.RFC3339Nano), s.o.Name, result
}

// wrote counts and logs that an entry could not be written.
func (s *Service) wrote(e *audit.Entry, err error) {
	if err == nil {
		return
	}
	s.auditErrors.Inc()
	s.losses.Lock()
	s.losses.Lost++
	s.losses.LastError = err.Error()
	s.losses.Unlock()
	s.o.Logger.Error("audit log not written", "action", e.Action, "result", e.Result, "caller", e.Caller, "key", e.Key, "request_id", e.RequestID, "error", err)
}
