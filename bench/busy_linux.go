// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc/stat on every processor that we know of.
const tick = 10 * time.Millisecond

// cpuOfAll is what all programs have used; the zero value if that is not told.
func cpuOfAll() cpuUse {
	file, err := os.Open("/proc/stat")
	if err != nil {
		return cpuUse{}
	}
	defer file.Close()
	line, err := bufio.NewReader(file).ReadString('\n')
	if err != nil {
		return cpuUse{}
	}
	u := readCPU(line)
	u.own = cpuTime()
	return u
}

// readCPU reads "cpu user nice system idle iowait irq softirq steal guest
// guest_nice", all since the start of the system; guests are in the first two, too.
func readCPU(line string) (u cpuUse) {
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return cpuUse{}
	}
	for i, text := range fields[1:9] {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return cpuUse{}
		}
		u.all += time.Duration(n) * tick
		if idle := i == 3 || i == 4; !idle {
			u.busy += time.Duration(n) * tick
		}
	}
	return u
}
