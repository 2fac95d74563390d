// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"net/netip"
	"strings"
)

// Attempt is a call for administration that was refused because of its credentials or
// scopes.
type Attempt struct {
	// Action is what was asked for: inspect, reset, grant, end, reload, drain, forget or
	// profile.
	Action string
	// Caller is who has shown valid credentials, and "" for others.
	Caller string
	// Remote is the address, with its port if it is known.
	Remote string
	// Address is what failures are counted by: that of Remote, or its /64.
	Address netip.Addr
	// Reason is the message of the refusal. It has no credential.
	Reason string
}

// adminActions names what callers do by methods and paths for administration.
var adminActions = map[string]string{
	"/bucketring.v1.Admin/InspectKey":     "inspect",
	"/bucketring.v1.Admin/ResetLimits":    "reset",
	"/bucketring.v1.Admin/GrantCredit":    "grant",
	"/bucketring.v1.Admin/EndReservation": "end",
	"/bucketring.v1.Admin/Reload":         "reload",
	"/bucketring.v1.Admin/Drain":          "drain",

	"/v1/admin/key":    "inspect",
	"/v1/admin/reset":  "reset",
	"/v1/admin/grant":  "grant",
	"/v1/admin/end":    "end",
	"/v1/admin/reload": "reload",
	"/v1/admin/drain":  "drain",
	"/v1/forget":       "forget",
}

// profiles begins the paths of profiles.
const profiles = "/debug/pprof/"

// attempted returns the refused attempt at a method or path, nil if it is none for
// administration.
func attempted(what string, g *Grant, remote string, address netip.Addr, err *Error) *Attempt {
	action, listed := adminActions[what]
	switch {
	case listed:
	case strings.HasPrefix(what, profiles):
		action = "profile"
	default:
		return nil
	}
	return &Attempt{Action: action, Caller: g.Caller(), Remote: remote, Address: address, Reason: err.Message}
}

// report tells who keeps refused attempts of one.
func (a *Authority) report(at *Attempt) {
	if at != nil && a.options.OnRefused != nil {
		a.options.OnRefused(at)
	}
}
