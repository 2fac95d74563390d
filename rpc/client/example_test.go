// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// complete answers a prompt within the limits of key.
func complete(ctx context.Context, c *client.Client, key, prompt string) (string, error) {
	r, err := c.Reserve(ctx, client.Estimate{Key: key, InputTokens: int64(len(prompt)), MaxOutputTokens: new(int64(800))})
	if err != nil {
		return "", err // no decision
	}
	if r.Denied() {
		return "", fmt.Errorf("%s of %s: retry in %v", r.Reason, r.Binding.Name, r.RetryAfter)
	}
	defer r.Cancel(context.WithoutCancel(ctx)) // gives everything back, unless settled

	text, used, err := model.Complete(ctx, prompt, r.Granted()) // max_tokens is what was granted
	if err != nil {
		return "", err
	}
	_, err = r.Settle(context.WithoutCancel(ctx), client.Usage{InputTokens: new(used.Input), OutputTokens: new(used.Output)})
	return text, err
}

// Reserve the maximum cost of a call, run the model, and settle the actual usage.
func Example() {
	addr, stop := exampleNode()
	defer stop()

	c, err := client.Dial(client.Options{Addrs: []string{addr}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	text, err := complete(context.Background(), c, "acme/alice", "Why is the sky blue?")
	fmt.Println(text, err)
	// Output: Because of Rayleigh scattering. <nil>
}

// A denial is an answer, with the limit that denied the call and a time to retry.
func ExampleDecision_Denied() {
	addr, stop := exampleNode()
	defer stop()
	c, err := client.Dial(client.Options{Addrs: []string{addr}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	d, err := c.Check(context.Background(), client.Call{Key: "acme/alice", Tier: "free", InputTokens: 9_000})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Outcome, d.Binding.Name, d.Binding.Remaining)

	d, err = c.Check(context.Background(), client.Call{Key: "acme/alice", Tier: "free", InputTokens: 9_000})
	if err != nil {
		log.Fatal(err)
	}
	if d.Denied() {
		fmt.Println(d.Outcome, d.Reason, d.Binding.Name, d.RetryAfter)
	}
	// Output:
	// allowed tokens 1000
	// denied limit_exceeded tokens 48s
}

// stream sends tokens to a caller, and always settles what was sent.
func stream(ctx context.Context, r *client.Reservation, tokens <-chan string, send func(string) error) (err error) {
	var sent int64
	defer func() {
		// If the caller has disconnected, ctx is cancelled; settle anyway.
		_, settleErr := r.Settle(context.WithoutCancel(ctx), client.Usage{OutputTokens: new(sent)})
		if err == nil {
			err = settleErr
		}
	}()
	renew := time.NewTicker(10 * time.Second) // a third of the lease
	defer renew.Stop()
	for {
		select {
		case token, more := <-tokens:
			if !more {
				return nil
			}
			if err := send(token); err != nil {
				return err
			}
			sent++
		case <-renew.C:
			// If this renewal fails, the next one may succeed.
			_, _ = r.Progress(ctx, client.Usage{OutputTokens: new(sent)})
		}
	}
}

// charge charges a call, and says when to come back if there are too many.
func charge(ctx context.Context, c *client.Client, key string) (time.Duration, error) {
	d, err := c.Check(ctx, client.Call{Key: key, InputTokens: 900})
	if busy, ok := errors.AsType[*client.OverloadedError](err); ok {
		return busy.RetryAfter, nil // refused at once, and nothing was charged
	}
	return d.RetryAfter, err
}

// A call that is refused because of overload is not retried: the caller learns when to come
// back.
func ExampleOverloadedError() {
	addr, stop := exampleNode()
	defer stop()
	c, err := client.Dial(client.Options{Addrs: []string{addr}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	wait, err := charge(context.Background(), c, "acme/alice")
	fmt.Println(wait, err)
	// Output: 0s <nil>
}

// A stream reports progress while it runs, and settles even if the caller disconnects.
func ExampleReservation_Progress() {
	addr, stop := exampleNode()
	defer stop()
	c, err := client.Dial(client.Options{Addrs: []string{addr}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	r, err := c.Reserve(context.Background(), client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: 900, MaxOutputTokens: new(int64(800))})
	if err != nil {
		log.Fatal(err)
	}
	if r.Denied() {
		log.Fatal(r.Reason)
	}
	tokens := make(chan string, 3) // the whole answer
	for _, token := range []string{"Rayleigh", " ", "scattering"} {
		tokens <- token
	}
	close(tokens)
	err = stream(context.Background(), r, tokens, func(token string) error {
		fmt.Print(token)
		return nil
	})
	fmt.Println()
	fmt.Println("stream ended:", err)

	left, err := c.Peek(context.Background(), client.Query{Key: "acme/alice", Tier: "free"})
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range left.Limits {
		if l.Dimension == "tokens" {
			fmt.Println(l.Limit-l.Remaining, "tokens used")
		}
	}
	// Output:
	// Rayleigh scattering
	// stream ended: <nil>
	// 903 tokens used
}

// SettleLater returns at once. Flush before Close, so that no settlement is lost.
func ExampleReservation_SettleLater() {
	addr, stop := exampleNode()
	defer stop()
	c, err := client.Dial(client.Options{
		Addrs:               []string{addr},
		OnSettlementDropped: func(key, requestID string, err error) { log.Printf("usage of %s is lost: %v", key, err) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	r, err := c.Reserve(context.Background(), client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: 900, MaxOutputTokens: new(int64(800))})
	if err != nil {
		log.Fatal(err)
	}
	if err := r.SettleLater(client.Usage{OutputTokens: new(int64(312))}); err != nil {
		log.Fatal(err) // the queue is full
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := c.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Status().PendingSettlements, "settlements pending")
	// Output: 0 settlements pending
}
