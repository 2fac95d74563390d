// SPDX-License-Identifier: Apache-2.0

package clienttest_test

import (
	"context"
	"fmt"
	"log"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/clienttest"
)

// summarize is the program under test.
func summarize(ctx context.Context, c *client.Client, key, text string) error {
	e := client.Estimate{Key: key, InputTokens: int64(len(text)), MaxOutputTokens: new(int64(800))}
	return c.Do(ctx, e, func(context.Context, *client.Grant) (client.Usage, error) {
		return client.Usage{OutputTokens: new(int64(12))}, nil // a model
	})
}

func TestSummarize(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: `
tiers: { free: { requests: 2/min, tokens: 10_000/min } }
default_tier: free
`})
	if err := summarize(t.Context(), f.Client(), "acme/alice", "a text"); err != nil {
		t.Errorf("summarize() = %v, want nil", err)
	}
	if used, err := f.Used(client.Query{Key: "acme/alice"}, "tokens"); used != 18 || err != nil {
		t.Errorf("used %d tokens, %v, want 18", used, err)
	}
	f.DenyNext(client.LimitExceeded, 3*time.Second)
	if err := summarize(t.Context(), f.Client(), "acme/alice", "a text"); err == nil {
		t.Error("summarize() = nil, want a denial")
	}
}

// In a test, New(t, ...) takes the place of Start and Close.
func Example() {
	f, err := clienttest.Start(clienttest.Options{Policy: `
tiers: { free: { requests: 2/min, tokens: 10_000/min } }
default_tier: free
`})
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()

	for range 3 {
		fmt.Println(summarize(context.Background(), f.Client(), "acme/alice", "a text"))
	}
	f.Advance(30 * time.Second)
	fmt.Println("after 30 s:", summarize(context.Background(), f.Client(), "acme/alice", "a text"))

	f.FailNext(clienttest.Reserve, client.ErrUnreachable)
	fmt.Println("no node:", summarize(context.Background(), f.Client(), "acme/alice", "a text") != nil)
	fmt.Println(len(f.Held()), "reservations left")
	// Output:
	// <nil>
	// <nil>
	// denied: Request limit exceeded: 2 of 2 requests used this minute by acme/alice: try again in 30s
	// after 30 s: <nil>
	// no node: true
	// 0 reservations left
}
