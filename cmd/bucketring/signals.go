// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// onSignals returns a context that the first interrupt ends; the second ends
// the process. Each SIGHUP calls reload, one at a time. The caller must stop it.
func onSignals(parent context.Context, reload func()) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	received := make(chan os.Signal, 4) // a few that come at once
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
