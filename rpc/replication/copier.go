// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/replication/internal/wire"
)

const (
	// chunkBytes is as partBytes, of a copy.
	chunkBytes = 192 << 10
	// maxCopy bounds the bytes of the records of one partition that a member accepts.
	maxCopy = 1 << 30
	// copierIdle is after what time without copies their connection is closed.
	copierIdle = 10 * time.Second
)

// copier sends all records of partitions to one boot of a member, one partition after
// the other, on a connection of its own.
type copier struct {
	link *link
	due  notify.Signal

	mu struct {
		sync.Mutex
		list   []continuity.StateTransfer
		queued map[int]bool // partitions in list, and the one on its way
	}

	conn   *grpc.ClientConn // nil: none
	stream callerStream     // nil: none
	ended  chan error       // of stream: why, once
	cancel context.CancelFunc
	buf    []byte
}

func newCopier(k *link) *copier {
	c := &copier{link: k, due: notify.New()}
	c.mu.queued = map[int]bool{}
	return c
}

// add has a partition copied, unless it is about to be.
func (c *copier) add(t continuity.StateTransfer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.queued[t.Partition] {
		for i := range c.mu.list {
			if c.mu.list[i].Partition == t.Partition {
				c.mu.list[i] = t
			}
		}
		return
	}
	c.mu.queued[t.Partition] = true
	c.mu.list = append(c.mu.list, t)
	c.due.Set()
}

func (c *copier) next() (continuity.StateTransfer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.mu.list) == 0 {
		c.mu.list = nil
		return continuity.StateTransfer{}, false
	}
	t := c.mu.list[0]
	c.mu.list = c.mu.list[1:]
	return t, true
}

func (c *copier) finished(t continuity.StateTransfer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.queued, t.Partition)
}

func (c *copier) run(ctx context.Context) {
	defer c.close()
	idle := time.NewTimer(copierIdle)
	defer idle.Stop()
	for {
		idle.Reset(copierIdle)
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			c.close()
			c.buf = nil
		case <-c.due.C():
			for t, ok := c.next(); ok; t, ok = c.next() {
				err := c.send(ctx, t)
				c.finished(t)
				switch {
				case ctx.Err() != nil:
					return
				case err != nil: // the machine asks again
					c.link.host.metrics.copiesFailed.Inc()
					c.link.host.log.Debug("copy failed", "member", c.link.to.Name, "partition", t.Partition, "error", err)
					c.close()
				default:
					c.link.host.metrics.copiesSent.Inc()
				}
			}
		}
	}
}

// open opens the stream, if there is none.
func (c *copier) open(ctx context.Context) error {
	if c.stream != nil {
		return nil
	}
	if c.conn == nil {
		conn, err := c.link.host.newConn(c.link.to.Name, c.link.address)
		if err != nil {
			return err
		}
		c.conn = conn
	}
	ctx, c.cancel = context.WithCancel(ctx)
	client := pb.NewPeerClient(c.conn)
	stream, err := c.link.openStream(c.cancel, func() (callerStream, error) { return client.Copy(ctx, grpc.WaitForReady(true)) })
	if err != nil {
		return err
	}
	ended := make(chan error, 1) // cap 1: nobody may look
	go func() {
		_, err := stream.Recv()
		ended <- streamEnded(err)
	}()
	c.stream, c.ended = stream, ended
	return nil
}

func (c *copier) close() {
	if c.cancel != nil {
		c.cancel()
	}
	if c.conn != nil {
		_ = c.conn.Close() // an error means that it is closed
	}
	c.conn, c.stream, c.cancel = nil, nil, nil
}

// send sends all records of a partition, as they are now.
func (c *copier) send(ctx context.Context, t continuity.StateTransfer) error {
	if err := c.open(ctx); err != nil {
		return err
	}
	h := c.link.host
	c.buf, t.Through = h.engine.SnapshotAt(h.now(), t.Partition, c.buf[:0])
	// Perhaps this is more than the machine knows of. It hears of it before an
	// acknowledgement comes.
	h.Changed(t.Partition, false)
	if len(c.buf) > maxCopy {
		return errors.New("the partition is too large to be copied")
	}
	rest := c.buf
	for last := false; !last; {
		n := min(len(rest), chunkBytes)
		chunk := &pb.CopyChunk{Records: rest[:n]}
		if rest = rest[n:]; len(rest) == 0 {
			last = true
			chunk.Header = wire.AppendCopyHeader(nil, t)
		}
		if err := h.pace.pace(ctx, n+1); err != nil {
			return err
		}
		if err := c.stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Copy{Copy: chunk}}); err != nil {
			select {
			case ended := <-c.ended:
				return ended
			default:
				return err
			}
		}
		h.metrics.bytesCopied.Add(float64(n))
	}
	if cap(c.buf) > 16*chunkBytes {
		c.buf = nil // large partitions are few
	}
	return nil
}
