// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"runtime"
	"syscall"
	"time"
)

// nap sleeps in the kernel. It returns false if that can't be had.
func nap(d time.Duration) bool {
	ts := syscall.NsecToTimespec(int64(d))
	err := syscall.Nanosleep(&ts, nil)
	return err == nil || err == syscall.EINTR
}

// exactly runs f on a thread of its own, whose naps are not prolonged by the
// 50 µs that the kernel may take to save wake-ups.
func exactly(f func()) {
	const setSlack, one, normal = 29, 1, 0 // PR_SET_TIMERSLACK
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set := func(slack uintptr) { // if it fails, naps are longer
		_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setSlack, slack, 0)
	}
	set(one)
	defer set(normal)
	f()
}
