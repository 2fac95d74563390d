// SPDX-License-Identifier: Apache-2.0

//go:build linux

package isolation

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/bucketring/bucketring/rpc/pb"
)

// A flood sends something at a node until its context is done. Errors and denials do
// not stop it.
type flood struct {
	ctx     context.Context
	pause   time.Duration // between two pieces of a body
	workers sync.WaitGroup
	sent    atomic.Int64 // calls, streams or connections
}

func newFlood(ctx context.Context) *flood { return &flood{ctx: ctx} }

// loop calls do about every gap until the context is done, one call at a time.
func (f *flood) loop(gap time.Duration, do func(i int)) {
	f.workers.Go(func() {
		tick := time.NewTicker(gap)
		defer tick.Stop()
		for i := 0; f.ctx.Err() == nil; i++ {
			do(i)
			select {
			case <-f.ctx.Done():
			case <-tick.C:
			}
		}
	})
}

// batch sends items in one call.
func (f *flood) batch(conn *grpc.ClientConn, items []*pb.Item) *pb.BatchResponse {
	answer, _ := pb.NewRateLimiterClient(conn).Batch(f.ctx, &pb.BatchRequest{Items: items})
	f.sent.Add(int64(len(answer.GetResults())))
	return answer
}

func check(key, id string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: key, RequestId: id}}}
}

func reserve(key, id string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Reserve{Reserve: &pb.ReserveRequest{Key: key, RequestId: id}}}
}

func settle(key, id string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Settle{Settle: &pb.SettleRequest{Key: key, RequestId: id}}}
}

func cancel(key, id string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Cancel{Cancel: &pb.CancelRequest{Key: key, RequestId: id}}}
}

const perBatch = 500

// checks remembers the ids of n checks of one root.
func (f *flood) checks(conn *grpc.ClientConn, root string, from, n int) {
	f.pairs(conn, root, from, n, check, nil)
}

// pairs sends n calls of one root with an id each, and then what ends them, in batches.
func (f *flood) pairs(conn *grpc.ClientConn, root string, from, n int, first, then func(key, id string) *pb.Item) {
	for i := 0; i < n && f.ctx.Err() == nil; i += perBatch {
		var begin, end []*pb.Item
		for j := range min(perBatch, n-i) {
			key, id := fmt.Sprintf("%s/u%d", root, j%10), fmt.Sprintf("f-%d", from+i+j)
			begin = append(begin, first(key, id))
			if then != nil {
				end = append(end, then(key, id))
			}
		}
		f.batch(conn, begin)
		if then != nil {
			f.batch(conn, end)
		}
	}
}

// ids fills the memory of ids with settled reservations and checks of one root, and
// goes on with both.
func (f *flood) ids(conn *grpc.ClientConn, most int) {
	f.pairs(conn, "flood-reserves", 0, most, reserve, settle)
	f.checks(conn, "flood-checks", 0, most)
	f.loop(100*time.Millisecond, func(i int) {
		f.pairs(conn, "flood-reserves", most+i*100, 100, reserve, settle)
		f.checks(conn, "flood-checks", most+i*100, 100)
	})
}

// keys makes n keys of one root.
func (f *flood) keys(conn *grpc.ClientConn, root string, n int) {
	for i := 0; i < n && f.ctx.Err() == nil; i += perBatch {
		var items []*pb.Item
		for j := i; j < min(n, i+perBatch); j++ {
			items = append(items, &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: fmt.Sprintf("%s/u%d", root, j), InputTokens: 1}}})
		}
		f.batch(conn, items)
	}
}

// touch keeps calling keys of a root, which has n, one by one and many at a time.
func (f *flood) touch(conn *grpc.ClientConn, root string, n int) {
	room := make(chan struct{}, 64) // calls under way
	f.loop(10*time.Millisecond, func(i int) {
		select {
		case room <- struct{}{}:
		default:
			return
		}
		f.workers.Go(func() {
			_, _ = pb.NewRateLimiterClient(conn).Check(f.ctx, &pb.CheckRequest{Key: fmt.Sprintf("%s/u%d", root, i%n), InputTokens: 1})
			<-room
			f.sent.Add(1)
		})
	})
}

// bodies opens connections that declare a large body, send most of it and wait. A
// connection that the proxy closes is opened again.
func (f *flood) bodies(proxy, key string, connections, size int) {
	chunk := bytes.Repeat([]byte("a "), 32<<10)
	for range connections {
		f.loop(redial, func(int) {
			conn, stop := f.dial(proxy)
			if conn == nil {
				return
			}
			defer stop()
			fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Key: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", key, size)
			_, err := io.WriteString(conn, `{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"`)
			for sent := 0; err == nil && sent < size*9/10; sent += len(chunk) {
				_, err = conn.Write(chunk)
				time.Sleep(f.pause)
			}
			f.sent.Add(1)
			_, _ = io.Copy(io.Discard, conn) // until the proxy closes it
		})
	}
}

// redial is the time between two connections in place of each that is closed.
const redial = 500 * time.Millisecond

// dial opens a connection that is closed when the flood ends; nil if that fails.
func (f *flood) dial(at string) (net.Conn, func()) {
	conn, err := flooderDialer.DialContext(f.ctx, "tcp", at)
	if err != nil {
		return nil, nil
	}
	closeAtEnd := context.AfterFunc(f.ctx, func() { _ = conn.Close() })
	return conn, func() {
		closeAtEnd()
		_ = conn.Close()
	}
}

// idle opens connections that send nothing.
func (f *flood) idle(at string, connections int) {
	for range connections {
		f.loop(redial, func(int) {
			conn, stop := f.dial(at)
			if conn == nil {
				return
			}
			defer stop()
			f.sent.Add(1)
			_, _ = io.Copy(io.Discard, conn)
		})
	}
}

// gossip opens connections to a gossip port that announce an encrypted message of size
// and send it without its end. There is no key for it.
func (f *flood) gossip(at, label string, connections, size int) {
	// As memberlist frames it: the label of the cluster, which is no secret, then
	// the type of an encrypted message and its length.
	const hasLabel, encrypted = 244, 10
	header := append([]byte{hasLabel, byte(len(label))}, label...)
	header = binary.BigEndian.AppendUint32(append(header, encrypted), uint32(size))
	garbage := bytes.Repeat([]byte{0xa5}, 64<<10)
	for range connections {
		f.loop(redial, func(int) {
			conn, stop := f.dial(at)
			if conn == nil {
				return
			}
			defer stop()
			_, err := conn.Write(header)
			for sent := 0; err == nil && sent < size-len(garbage); sent += len(garbage) {
				_, err = conn.Write(garbage)
				time.Sleep(f.pause)
			}
			f.sent.Add(1)
			_, _ = io.Copy(io.Discard, conn)
		})
	}
}

// watches opens streams that wait for rings and read none.
func (f *flood) watches(conns []*grpc.ClientConn, streams int) {
	for i := range streams {
		if s, err := pb.NewRateLimiterClient(conns[i%len(conns)]).Watch(f.ctx, &pb.WatchRequest{}); err == nil && s != nil {
			f.sent.Add(1)
		}
	}
}

// exchanges opens streams that send batches and read no answers.
func (f *flood) exchanges(conns []*grpc.ClientConn, streams int) {
	items := make([]*pb.Item, 512)
	for i := range items {
		items[i] = &pb.Item{Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: "flood-" + strings.Repeat("x", 100) + "/" + strings.Repeat("y", 100)}}}
	}
	for i := range streams {
		f.workers.Go(func() {
			s, err := pb.NewRateLimiterClient(conns[i%len(conns)]).Exchange(f.ctx)
			for n := uint64(1); err == nil && n <= 30; n++ {
				f.sent.Add(1)
				err = s.Send(&pb.Batch{Sequence: n, Items: items})
			}
			<-f.ctx.Done()
		})
	}
}

// withMetadata makes a call with that much metadata, and returns its error.
func withMetadata(ctx context.Context, conn *grpc.ClientConn, size int) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "x-flood", strings.Repeat("m", size))
	_, err := pb.NewRateLimiterClient(conn).Peek(ctx, &pb.PeekRequest{Key: "flood-metadata/u"})
	return err
}

// ask sends a small call for a model through the proxy, and returns the status.
func ask(ctx context.Context, client *http.Client, proxy, key, content string, headers ...string) (int, error) {
	body := fmt.Sprintf(`{"model":"m","max_tokens":1,"messages":[{"role":"user","content":%q}]}`, content)
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+proxy+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	q.Header.Set("X-Key", key)
	q.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	answer, err := client.Do(q)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}
