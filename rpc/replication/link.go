// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/rpc/internal/handshake"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// queuedFrames bounds what waits for a member that does not read, and queuedBytes its
	// size. Beyond that frames are dropped: the protocol repeats what matters.
	queuedFrames = 1024
	queuedBytes  = 32 << 20
	// handshakeTimeout bounds a handshake.
	handshakeTimeout = 3 * time.Second
	minBackoff       = 50 * time.Millisecond
	maxBackoff       = 500 * time.Millisecond
	// window is the flow control window of a stream in bytes.
	window = 4 << 20
	// maxFrame bounds the bytes of a frame: the changes of one partition may be in it.
	maxFrame = 64 << 20
	// partBytes is how much of a frame is in one gRPC message, of which a server accepts
	// 256 KiB.
	partBytes = 192 << 10
	// keptBuffer is the size of the largest buffer that is used again.
	keptBuffer = 1 << 20
)

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// recycle gives a buffer back.
func recycle(b *[]byte) {
	if cap(*b) <= keptBuffer {
		buffers.Put(b)
	}
}

// link is the control stream to one boot of a member, which is opened again whenever it
// breaks, and the copier.
type link struct {
	host    *Host
	to      continuity.ID
	address Address
	former  []continuity.ID // boots that have ended if this one answers
	copier  *copier
	cancel  context.CancelFunc

	up      atomic.Bool  // whether frames are sent
	queue   chan *[]byte // encoded frames, cap queuedFrames; never closed
	queued  atomic.Int64 // bytes in queue
	problem struct {     // for the log and the status
		sync.Mutex
		text string
	}
}

// connect starts to connect to a boot of a member.
func (l *loop) connect(to continuity.ID, address Address, former []continuity.ID) *link {
	ctx, cancel := context.WithCancel(l.ctx)
	k := &link{host: l.Host, to: to, address: address, former: former, cancel: cancel, queue: make(chan *[]byte, queuedFrames)}
	k.copier = newCopier(k)
	l.running.Go(func() { k.run(ctx) })
	l.running.Go(func() { k.copier.run(ctx) })
	return k
}

// stop ends the goroutines of the link, soon.
func (k *link) stop() { k.cancel() }

// newConn returns a connection to a member.
func (h *Host) newConn(member string, address Address) (*grpc.ClientConn, error) {
	options := h.dial
	if h.secure != nil {
		options = append(slices.Clip(options), grpc.WithTransportCredentials(h.secure(member, address.TLS)))
	}
	// The address is dialed as it is, and a host name is resolved at each attempt.
	return grpc.NewClient("passthrough:///"+address.GRPC, append([]grpc.DialOption{
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithDisableServiceConfig(),
	}, options...)...)
}

// enqueue has a frame sent, or drops it if too much waits.
func (k *link) enqueue(b *[]byte) {
	n := int64(len(*b))
	if k.queued.Add(n) <= queuedBytes {
		select {
		case k.queue <- b:
			return
		default:
		}
	}
	k.queued.Add(-n)
	k.host.metrics.dropped.Inc()
	recycle(b)
}

func (k *link) run(ctx context.Context) {
	conn, err := k.host.newConn(k.to.Name, k.address)
	if err != nil {
		k.failed(fmt.Errorf("address %q: %w", k.address.GRPC, err))
		return
	}
	defer func() { _ = conn.Close() }() // an error means that it is closed
	client := pb.NewPeerClient(conn)
	probe := prober{host: k.host, to: k.to, address: k.address}
	for wait := minBackoff; ctx.Err() == nil; wait = min(2*wait, maxBackoff) {
		began := time.Now()
		err := k.exchange(ctx, client)
		if ctx.Err() != nil {
			return
		}
		k.failed(err)
		if probe.run(ctx) {
			return
		}
		if time.Since(began) > maxBackoff { // servers end old connections
			wait = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = max(wait, minBackoff/2)
	}
}

// failed logs why the stream to a member broke or was not opened, unless that is known.
func (k *link) failed(err error) {
	text := grpcstatus.Convert(err).Message()
	k.problem.Lock()
	same := k.problem.text == text
	k.problem.text = text
	k.problem.Unlock()
	if !same {
		k.host.log.Warn("no replication to a member", "member", k.to.Name, "address", k.address.GRPC, "reason", text)
	}
}

func (k *link) works() {
	k.problem.Lock()
	before := k.problem.text
	k.problem.text = ""
	k.problem.Unlock()
	if before != "" {
		k.host.log.Info("replication to a member works again", "member", k.to.Name, "address", k.address.GRPC)
	}
}

// callerStream is a stream to another member.
type callerStream = grpc.BidiStreamingClient[pb.PeerMessage, pb.PeerAnswer]

// openStream opens a stream and makes the handshake. The caller must cancel ctx.
func (k *link) openStream(cancel context.CancelFunc, open func() (callerStream, error)) (callerStream, error) {
	stream, err := open()
	if err != nil {
		return nil, err
	}
	late := time.AfterFunc(handshakeTimeout, cancel)
	_, err = k.host.handshake.AsCaller(stream, handshake.Member{Name: k.to.Name, Boot: k.to.Boot, Address: k.address.GRPC})
	if err == nil && !late.Stop() {
		err = context.DeadlineExceeded
	}
	late.Stop()
	return stream, err
}

// exchange opens the control stream and sends frames until it breaks.
func (k *link) exchange(ctx context.Context, client pb.PeerClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := k.openStream(cancel, func() (callerStream, error) { return client.Control(ctx) })
	if err != nil {
		return err
	}
	ended := make(chan error, 1) // cap 1: exchange may have returned
	go func() {
		_, err := stream.Recv() // nothing is sent: it ends with the stream
		ended <- err
		cancel()
	}()
	for _, boot := range k.former {
		k.host.event(continuity.Dead{ID: boot})
	}
	k.drop()
	k.up.Store(true)
	k.works()
	defer k.drop()
	defer k.up.Store(false)
	for {
		select {
		case <-ctx.Done():
			select {
			case err := <-ended:
				return streamEnded(err)
			default:
				return ctx.Err()
			}
		case b := <-k.queue:
			k.queued.Add(-int64(len(*b)))
			k.host.metrics.framesSent.Inc()
			k.host.metrics.bytesSent.Add(float64(len(*b)))
			err := sendFrame(stream, *b)
			recycle(b)
			if errors.Is(err, io.EOF) {
				return streamEnded(<-ended)
			}
			if err != nil {
				return err
			}
		}
	}
}

// sendFrame sends a frame in as many messages as it takes.
func sendFrame(stream callerStream, b []byte) error {
	for len(b) > partBytes {
		if err := stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_ControlPart{ControlPart: b[:partBytes]}}); err != nil {
			return err
		}
		b = b[partBytes:]
	}
	return stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Control{Control: b}})
}

func streamEnded(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errors.New("the member has ended the stream")
	}
	return err
}

// drop drops what was queued for a stream that is gone: it is late.
func (k *link) drop() {
	for {
		select {
		case b := <-k.queue:
			k.queued.Add(-int64(len(*b)))
			k.host.metrics.dropped.Inc()
			recycle(b)
		default:
			return
		}
	}
}
