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
func complete(ctx context.Context, c *client.Client, key, prompt string) (text string, err error) {
	e := client.Estimate{Key: key, InputTokens: int64(len(prompt)), MaxOutputTokens: new(int64(800))}
	err = c.Do(ctx, e, func(ctx context.Context, g *client.Grant) (client.Usage, error) {
		answer, used, err := model.Complete(ctx, prompt, g.OutputTokens) // max_tokens is what was granted
		if err != nil {
			return client.Usage{}, err // the call is cancelled: everything is given back
		}
		text = answer
		return client.Usage{InputTokens: new(used.Input), OutputTokens: new(used.Output)}, nil
	})
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

// answer is what complete returns, with a time to come back if the call was denied.
func answer(ctx context.Context, c *client.Client, key, prompt string) (text string, after time.Duration, err error) {
	text, err = complete(ctx, c, key, prompt)
	if denied, ok := errors.AsType[*client.DeniedError](err); ok {
		return denied.Decision.Message(), denied.Decision.RetryAfter, nil
	}
	return text, 0, err
}

// Do reports a denial as an error that has the decision.
func ExampleDeniedError() {
	addr, stop := exampleNode()
	defer stop()
	c, err := client.Dial(client.Options{Addrs: []string{addr}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	if _, err = c.Check(context.Background(), client.Call{Key: "acme/alice", InputTokens: 9_900}); err != nil {
		log.Fatal(err)
	}
	text, after, err := answer(context.Background(), c, "acme/alice", "Why is the sky blue?")
	fmt.Println(text)
	fmt.Println(after, err)
	// Output:
	// Token limit exceeded: 9,900 of 10,000 tokens used this minute by acme/alice.
	// 4.32s <nil>
}

// completeByHand does what complete does.
func completeByHand(ctx context.Context, c *client.Client, key, prompt string) (string, error) {
	r, err := c.Reserve(ctx, client.Estimate{Key: key, InputTokens: int64(len(prompt)), MaxOutputTokens: new(int64(800))})
	if err != nil {
		return "", err // no decision
	}
	if r.Denied() {
		return "", r.Err()
	}
	defer r.Cancel(ctx) // gives everything back, unless settled

	text, used, err := model.Complete(ctx, prompt, r.Granted())
	if err != nil {
		return "", err
	}
	_, err = r.Settle(ctx, client.Usage{InputTokens: new(used.Input), OutputTokens: new(used.Output)})
	return text, err
}

// Reserve and Settle are the steps of Do, for calls that do not fit in one function.
func ExampleClient_Reserve() {
	addr, stop := exampleNode()
	defer stop()
	c, err := client.Dial(client.Options{Addrs: []string{addr}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	text, err := completeByHand(context.Background(), c, "acme/alice", "Why is the sky blue?")
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

// stream sends tokens to a caller. What was sent is charged, also if the caller disconnects.
func stream(ctx context.Context, c *client.Client, key string, tokens <-chan string, send func(string) error) error {
	e := client.Estimate{Key: key, InputTokens: 900, MaxOutputTokens: new(int64(800))}
	return c.Do(ctx, e, func(_ context.Context, g *client.Grant) (client.Usage, error) {
		var sent int64
		for token := range tokens {
			if err := send(token); err != nil {
				return client.Usage{}, err // what was sent before is charged
			}
			sent++
			g.Progress(client.Usage{OutputTokens: new(sent)})
		}
		return client.Usage{}, nil // as last reported
	})
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

// chargeLater charges a call that nobody waits for. It returns how long the call waited.
func chargeLater(ctx context.Context, c *client.Client, key string) (time.Duration, error) {
	d, err := c.Check(ctx, client.Call{Key: key, InputTokens: 900, Priority: client.Batch, MaxWait: new(30 * time.Second)})
	if err != nil {
		return 0, err
	}
	if d.Denied() {
		return 0, fmt.Errorf("%s of %s after %v in line: retry in %v", d.Reason, d.Binding.Name, d.Waited, d.RetryAfter)
	}
	return d.Waited, nil
}

// A call of a batch job leaves the headroom of others free, and waits if the policy lets it.
func ExampleCall_priority() {
	addr, stop := exampleNode()
	defer stop()
	c, err := client.Dial(client.Options{Addrs: []string{addr}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	waited, err := chargeLater(context.Background(), c, "acme/nightly")
	fmt.Println(waited, err)
	// Output: 0s <nil>
}

// A stream reports its progress, and is charged for it even if the caller disconnects.
func ExampleGrant_Progress() {
	addr, stop := exampleNode()
	defer stop()
	c, err := client.Dial(client.Options{Addrs: []string{addr}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	tokens := make(chan string, 3) // the whole answer
	for _, token := range []string{"Rayleigh", " ", "scattering"} {
		tokens <- token
	}
	close(tokens)
	err = stream(context.Background(), c, "acme/alice", tokens, func(token string) error {
		fmt.Print(token)
		return nil
	})
	fmt.Println()
	fmt.Println("stream ended:", err)

	left, err := c.Peek(context.Background(), client.Query{Key: "acme/alice"})
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
