// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/client"
)

const (
	// callers is how many calls are in progress.
	callers = 256
	// callTimeout is for a machine that does other work, too.
	callTimeout = 20 * time.Second
)

// keysIn returns n keys, each its own root, in the first partitions.
func keysIn(partitions, n int) []string {
	keys := make([]string, 0, n)
	for i := 0; len(keys) < n; i++ {
		if key := fmt.Sprintf("user-%08d", i); limiter.PartitionOf(key) < partitions {
			keys = append(keys, key)
		}
	}
	return keys
}

// check is a call that is charged at once. Its request id is remembered.
func check(ctx context.Context, c *client.Client, key string) error {
	d, err := c.Check(ctx, client.Call{Key: key, InputTokens: 900, OutputTokens: 100})
	if err == nil && d.Outcome != client.Allowed {
		return errors.New("the check of " + key + " was " + string(d.Outcome))
	}
	return err
}

// reserve is a call that is held for as long as possible.
func reserve(ctx context.Context, c *client.Client, key string) error {
	_, err := c.Reserve(ctx, client.Estimate{Key: key, InputTokens: 900, MaxOutputTokens: new(int64(100)), TTL: time.Hour})
	return err
}

// load makes one call of each key by the client library, which it closes in the end.
func load(t *testing.T, address string, keys []string, call func(context.Context, *client.Client, string) error) {
	t.Helper()
	c, err := client.Dial(client.Options{Addrs: []string{address}, Timeout: callTimeout})
	if err != nil {
		t.Fatal(err)
	}
	var next atomic.Int64
	var running sync.WaitGroup
	failed := make(chan error, callers) // cap: one of each caller
	for range callers {
		running.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(keys) {
					return
				}
				if err := call(t.Context(), c, keys[i]); err != nil {
					failed <- errors.New("call " + strconv.Itoa(i) + ": " + err.Error())
					return
				}
			}
		})
	}
	running.Wait()
	if err := c.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
}
