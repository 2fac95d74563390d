// SPDX-License-Identifier: Apache-2.0

// Package boottime has a monotonic clock that counts the time in which the machine was
// suspended. Leases need it: those that gave them count that time, too.
package boottime
