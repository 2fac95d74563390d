// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/cputime"
)

// tick is the unit of /proc/stat on every known architecture.
const tick = 10 * time.Millisecond

// readCPUUsage returns the usage of the machine so far, or the zero value if it is
// unknown.
func readCPUUsage() cpuUsage {
	file, err := os.Open("/proc/stat")
	if err != nil {
		return cpuUsage{}
	}
	defer file.Close()
	line, err := bufio.NewReader(file).ReadString('\n')
	if err != nil {
		return cpuUsage{}
	}
	u := parseCPUUsage(line)
	u.own = cputime.Used()
	return u
}

// parseCPUUsage parses the line "cpu user nice system idle iowait irq softirq steal
// guest guest_nice", in ticks since boot. User and nice include the guest times.
func parseCPUUsage(line string) (u cpuUsage) {
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return cpuUsage{}
	}
	for i, text := range fields[1:9] {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return cpuUsage{}
		}
		u.total += time.Duration(n) * tick
		if idle := i == 3 || i == 4; !idle {
			u.busy += time.Duration(n) * tick
		}
	}
	return u
}
