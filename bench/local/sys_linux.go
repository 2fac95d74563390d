// SPDX-License-Identifier: Apache-2.0

package local

import "syscall"

// attributes keep a terminal's interrupt from a child, which Stop ends, and make the
// kernel kill it when the thread that started it ends.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
