// SPDX-License-Identifier: Apache-2.0

package client

import (
	"strings"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/explain"
)

// Message says in a sentence, for the person who made the call, which limit denied it and
// why: the message that the HTTP API has. Numbers of a hidden limit are left out. It is ""
// if the call was not denied.
func (d Decision) Message() string {
	if !d.Denied() {
		return ""
	}
	x := d.explained()
	return explain.Message(&x)
}

// Err returns a [*DeniedError] if the call was denied, and nil otherwise.
func (d Decision) Err() error {
	if !d.Denied() {
		return nil
	}
	return &DeniedError{Decision: d}
}

// DeniedError is a denial, for those who want an error: see [Decision.Err] and [Client.Do].
type DeniedError struct {
	Decision Decision
}

// Error implements error. The text has no numbers of hidden limits.
func (e *DeniedError) Error() string {
	message := "denied: " + strings.TrimSuffix(e.Decision.Message(), ".")
	if after := e.Decision.RetryAfter; after > 0 {
		message += ": try again in " + explain.Ceil(after, time.Millisecond).String()
	}
	return message
}

// explained converts what a message is made of.
func (d *Decision) explained() explain.Decision {
	x := explain.Decision{
		Reason: string(d.Reason), Fallback: d.Route == Fallback, Model: d.Model, RetryAfter: -1,
		Priority: string(d.Priority), Waited: d.Waited, WaitRefused: d.WaitRefused,
		Limits: make([]explain.Limit, len(d.Limits)),
	}
	if d.RetryAfter > 0 {
		x.RetryAfter = d.RetryAfter
	}
	for i := range d.Limits {
		x.Limits[i] = explain.Limit(d.Limits[i])
	}
	if d.Binding.Dimension != "" {
		binding := explain.Limit(d.Binding)
		x.Binding = &binding
	}
	x.MaxWait = explain.MaxWaitOf(x.Limits)
	if d.MaxWait != nil {
		x.MaxWait = min(x.MaxWait, *d.MaxWait)
	}
	return x
}
