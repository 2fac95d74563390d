// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// onSignals returns a context that the first SIGINT or SIGTERM cancels; the second one
// exits the process. Each SIGHUP calls reload, one call at a time. The caller must call
// stop.
func onSignals(parent context.Context, reload func()) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	received := make(chan os.Signal, 4) // buffered, because Notify drops signals
	signal.Notify(received, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stopped:
				return
			case sig := <-received:
				switch {
				case sig == syscall.SIGHUP:
					reload()
				case ctx.Err() != nil:
					os.Exit(exitFailed)
				default:
					cancel()
				}
			}
		}
	}()
	return ctx, func() {
		signal.Stop(received)
		close(stopped)
		<-done
		cancel()
	}
}
