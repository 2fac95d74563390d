// SPDX-License-Identifier: Apache-2.0

// Package waittest waits in tests, with a deadline.
package waittest

import (
	"context"
	"testing"
	"time"
)

// Limit is how long [Until] waits: far longer than what is waited for should
// take on a busy machine.
const Limit = 30 * time.Second

// poll is the time between two looks.
const poll = time.Millisecond

// Until returns when ok does. After [Limit] it fails the test, which was waiting
// for what.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Limit); !ok(); time.Sleep(poll) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for: %s", Limit, what)
		}
	}
}

// Context returns a context that ends after d or with the test.
func Context(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
