// SPDX-License-Identifier: Apache-2.0

package local

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

func TestProcess(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := StartProcess(log, "/bin/sh", "-c", "echo ready; exec sleep 3600")
	if err != nil {
		t.Fatal(err)
	}
	waittest.Until(t, "a line in its log", func() bool {
		text, err := readTail(log, 0)
		return err == nil && strings.Contains(text, "ready")
	})
	if p.PID() <= 0 || p.Err() != nil {
		t.Errorf("process %d, error %v, want one that runs", p.PID(), p.Err())
	}
	p.Stop(time.Minute)
	p.Stop(time.Minute)
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "ready") {
		t.Errorf("Err() = %v, want how it has ended, with its log", err)
	}
	if _, err := StartProcess(log, filepath.Join(t.TempDir(), "nothing")); err == nil {
		t.Error("a program that does not exist is started, want an error")
	}
}
