// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/bucketring/bucketring/rpc/pb"
)

// BenchmarkDelivered measures one call from Put to its delivery, to an owner that
// answers at once.
func BenchmarkDelivered(b *testing.B) {
	o := newOutbox(b, Options{}, func(context.Context, *pb.Item) error { return nil })
	stop := running(b, o)
	keys := make([]string, 64)
	for i := range keys {
		keys[i] = fmt.Sprint("root", i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		item := check(keys[i%len(keys)], strconv.Itoa(i))
		for o.Put(item) != nil {
			if err := o.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := o.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	stop()
}
