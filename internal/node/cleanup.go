// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// cleanups is a stack of functions that undo what was started. Each is pushed as
// soon as there is something to undo, so a failed start and a normal shutdown use
// the same code.
type cleanups struct {
	log   *slog.Logger
	level slog.Level // of the log messages
	steps []cleanup
}

type cleanup struct {
	name string
	undo func() error
}

func (c *cleanups) push(name string, undo func() error) {
	c.steps = append(c.steps, cleanup{name, undo})
}

// unwind runs all functions, last in first out, and empties the stack. It runs
// every function even if others fail; each bounds its own time.
func (c *cleanups) unwind() error {
	var failed []error
	for len(c.steps) > 0 {
		last := len(c.steps) - 1
		step := c.steps[last]
		c.steps = c.steps[:last]
		start := time.Now()
		if err := step.undo(); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", step.name, err))
		}
		c.log.Log(context.Background(), c.level, "shutdown step done", "step", step.name, "duration", time.Since(start).Round(time.Microsecond))
	}
	return errors.Join(failed...)
}
