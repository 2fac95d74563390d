// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// wire connects two network interfaces with configurable delay and loss in each
// direction. It replaces netem, which some kernels lack.
type wire struct {
	near, far string // names of its interfaces, which start in the namespace of the test
	out, in   quality
	ends      [2]*os.File
	group     sync.WaitGroup
}

// quality is the delay and loss of one direction. It may be changed at any time.
type quality struct {
	delay atomic.Int64 // nanoseconds
	loss  atomic.Int64 // of 100 frames
}

func (q *quality) set(delay time.Duration, loss int64) {
	q.delay.Store(int64(delay))
	q.loss.Store(loss)
}

// newWire creates two interfaces and forwards frames between them until the test
// ends. out is the direction from near to far.
func newWire(t *testing.T, near, far string) *wire {
	t.Helper()
	w := &wire{near: near, far: far}
	for i, name := range []string{near, far} {
		w.ends[i] = openTAP(t, name)
	}
	w.group.Go(func() { w.forward(t, w.ends[0], w.ends[1], &w.out) })
	w.group.Go(func() { w.forward(t, w.ends[1], w.ends[0], &w.in) })
	t.Cleanup(func() {
		for _, end := range w.ends {
			if err := end.Close(); err != nil {
				t.Error(err)
			}
		}
		w.group.Wait()
	})
	return w
}

// openTAP creates an interface whose frames the test reads and writes. Closing the
// file deletes it.
func openTAP(t *testing.T, name string) *os.File {
	t.Helper()
	const tunSetInterface, tap, noInfo = 0x400454ca, 0x0002, 0x1000 // linux/if_tun.h
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("open /dev/net/tun: %v", err)
	}
	var request struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:syscall.IFNAMSIZ-1], name)
	request.flags = tap | noInfo
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), tunSetInterface, uintptr(unsafe.Pointer(&request))); errno != 0 {
		_ = syscall.Close(fd)
		t.Fatalf("make interface %s: %v", name, errno)
	}
	return os.NewFile(uintptr(fd), name)
}

// forward forwards frames in order.
func (w *wire) forward(t *testing.T, from, to *os.File, q *quality) {
	type frame struct {
		bytes []byte
		due   time.Time
	}
	late := make(chan frame, 4096) // frames in flight; closed by the reader; frames are dropped if it is full
	w.group.Go(func() {
		for f := range late {
			time.Sleep(time.Until(f.due))
			_, err := to.Write(f.bytes)
			if err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, syscall.EIO) { // EIO: the interface is down
				t.Errorf("wire: write to %s: %v", to.Name(), err)
			}
		}
	})
	defer close(late)
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("wire: read from %s: %v", from.Name(), err)
			}
			return
		}
		if rand.Int64N(100) < q.loss.Load() {
			continue
		}
		select {
		case late <- frame{append([]byte(nil), buffer[:n]...), time.Now().Add(time.Duration(q.delay.Load()))}:
		default:
		}
	}
}
