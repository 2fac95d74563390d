// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"runtime"
	"syscall"
	"time"
)

// nanosleep sleeps in the kernel. It returns false if the kernel cannot.
func nanosleep(d time.Duration) bool {
	ts := syscall.NsecToTimespec(int64(d))
	err := syscall.Nanosleep(&ts, nil)
	return err == nil || err == syscall.EINTR
}

// withPreciseSleep runs f on a thread of its own without timer slack: the kernel may
// otherwise prolong each sleep by 50 µs.
func withPreciseSleep(f func()) {
	const setSlack, one, normal = 29, 1, 0 // PR_SET_TIMERSLACK
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set := func(slack uintptr) { // if it fails, sleeps are longer
		_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setSlack, slack, 0)
	}
	set(one)
	defer set(normal)
	f()
}
