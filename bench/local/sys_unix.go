// SPDX-License-Identifier: Apache-2.0

//go:build unix && !linux

package local

import "syscall"

// attributes keep a terminal's interrupt from a child, which Stop ends.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
