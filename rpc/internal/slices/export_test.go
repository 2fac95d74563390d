// SPDX-License-Identifier: Apache-2.0

package slices

// Events returns how many events the sender waits for.
func (t *Table) Events() int {
	t.sender.mu.Lock()
	defer t.sender.mu.Unlock()
	return len(t.sender.mu.events)
}

// Known returns how many reservations the table knows.
func (t *Table) Known() int64 { return t.known.Load() }
