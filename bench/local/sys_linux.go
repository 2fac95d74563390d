// SPDX-License-Identifier: Apache-2.0

package local

import "syscall"

// attributes keep the interrupt of a terminal from a child, which is told when to
// end, and kill it when the thread that started it dies.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
