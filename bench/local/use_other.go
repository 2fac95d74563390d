// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package local

import (
	"errors"
	"fmt"
	"runtime"
)

// ProcessUse returns what a process has used. It needs Linux: elsewhere the error
// is [errors.ErrUnsupported].
func ProcessUse(int) (Use, error) {
	return Use{}, fmt.Errorf("processor time and memory of a process on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
