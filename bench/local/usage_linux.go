// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// tick is the unit of CPU time in /proc, on every Linux that Go supports.
const tick = 10 * time.Millisecond

// ProcessUsage returns the usage of a process. It needs Linux; elsewhere the error is
// [errors.ErrUnsupported].
func ProcessUsage(pid int) (Usage, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	return parseStat(text)
}

// parseStat parses /proc/pid/stat; see proc_pid_stat(5).
func parseStat(text []byte) (Usage, error) {
	const state, utime, stime, rss = 3, 14, 15, 24 // field numbers
	end := bytes.LastIndexByte(text, ')')          // of the name, which may contain any character
	fields := bytes.Fields(text[end+1:])
	if end < 0 || len(fields) <= rss-state {
		return Usage{}, fmt.Errorf("read /proc/pid/stat: too few fields in %q", text)
	}
	var n [3]int64
	for i, field := range []int{utime, stime, rss} {
		var err error
		if n[i], err = strconv.ParseInt(string(fields[field-state]), 10, 64); err != nil {
			return Usage{}, fmt.Errorf("read /proc/pid/stat: field %d: %w", field, err)
		}
	}
	return Usage{CPU: time.Duration(n[0]+n[1]) * tick, RSS: n[2] * int64(os.Getpagesize())}, nil
}
