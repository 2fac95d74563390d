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
// otherwise prolong each sleep by 50 µs. If the process may do that, the thread also has a
// higher priority, so that servers on the same machine do not keep it from running.
func withPreciseSleep(f func()) {
	const setSlack, one, normal = 29, 1, 0 // PR_SET_TIMERSLACK
	const nice, usual = -10, 0
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if thread := syscall.Gettid(); syscall.Setpriority(syscall.PRIO_PROCESS, thread, nice) == nil {
		defer func() { _ = syscall.Setpriority(syscall.PRIO_PROCESS, thread, usual) }()
	}
	set := func(slack uintptr) { // if it fails, sleeps are longer
		_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setSlack, slack, 0)
	}
	set(one)
	defer set(normal)
	f()
}
