// SPDX-License-Identifier: Apache-2.0

//go:build unix && !linux

package local

import "syscall"

// attributes keep the interrupt of a terminal from a child, which is told when to
// end.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
