// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// tick is the unit of processor time in /proc, on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// ProcessUse returns what a process has used. It needs Linux: elsewhere the error
// is [errors.ErrUnsupported].
func ProcessUse(pid int) (Use, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Use{}, err
	}
	return parseStat(text)
}

// parseStat reads what proc_pid_stat(5) describes.
func parseStat(text []byte) (Use, error) {
	const state, utime, stime, rss = 3, 14, 15, 24 // numbers of fields
	end := bytes.LastIndexByte(text, ')')          // of the name, which may be anything
	fields := bytes.Fields(text[end+1:])
	if end < 0 || len(fields) <= rss-state {
		return Use{}, fmt.Errorf("read /proc/pid/stat: too few fields in %q", text)
	}
	var n [3]int64
	for i, field := range []int{utime, stime, rss} {
		var err error
		if n[i], err = strconv.ParseInt(string(fields[field-state]), 10, 64); err != nil {
			return Use{}, fmt.Errorf("read /proc/pid/stat: field %d: %w", field, err)
		}
	}
	return Use{CPU: time.Duration(n[0]+n[1]) * tick, RSS: n[2] * int64(os.Getpagesize())}, nil
}
