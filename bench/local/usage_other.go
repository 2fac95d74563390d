// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package local

import (
	"errors"
	"fmt"
	"runtime"
)

// ProcessUsage returns the usage of a process. It needs Linux; elsewhere the error is
// [errors.ErrUnsupported].
func ProcessUsage(int) (Usage, error) {
	return Usage{}, fmt.Errorf("CPU time and memory of a process on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
