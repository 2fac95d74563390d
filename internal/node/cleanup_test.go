// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
)

func TestCleanupsRunLastFirstAndAll(t *testing.T) {
	var order []string
	cause := errors.New("cause")
	c := cleanups{log: slog.New(slog.DiscardHandler)}
	for _, name := range []string{"first", "second", "third"} {
		c.push(name, func() error {
			order = append(order, name)
			if name == "second" {
				return cause
			}
			return nil
		})
	}
	err := c.unwind()
	if want := []string{"third", "second", "first"}; !slices.Equal(order, want) {
		t.Errorf("order = %v, want %v", order, want)
	}
	if !errors.Is(err, cause) || err.Error() != "second: cause" {
		t.Errorf("unwind = %v, want second: cause", err)
	}
	if err := c.unwind(); err != nil || len(order) != 3 {
		t.Errorf("unwind again = %v after %d steps, want nil after 3", err, len(order))
	}
}
