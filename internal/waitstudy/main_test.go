// SPDX-License-Identifier: Apache-2.0

// Package waitstudy measures what a queue is worth: the same burst from the users of one
// organisation is refused, retried by openai-go, and queued. The calls go through a proxy
// and a node to a mock model server, in real time.
//
//	go test ./internal/waitstudy -v                      # a burst of 3 s
//	go test ./internal/waitstudy -v -run Burst -full     # 10 s, as make waiting does
package waitstudy

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

var (
	full    = flag.Bool("full", false, "run TestBurst in its full form, of about a minute")
	docsDir = flag.String("docs", "", "directory where TestBurst -full writes waiting.svg, and the table in waiting.md")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
