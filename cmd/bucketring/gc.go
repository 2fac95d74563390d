// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/bucketring/bucketring/internal/gcpace"
)

// paceGC sets GOGC while nodes run, unless the environment sets it. The caller must call stop.
func (s *streams) paceGC(ctx context.Context) (stop func()) {
	if gogc, _ := s.lookupEnv("GOGC"); gogc != "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		gcpace.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}
