// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/bucketring/bucketring/internal/buildinfo"
)

// Environment describes where a run took place. Unknown fields are empty.
type Environment struct {
	CPU         string `json:"cpu,omitempty"` // model name
	Cores       int    `json:"cores"`         // that this process may use
	MemoryBytes int64  `json:"memory_bytes"`
	OS          string `json:"os"`               // linux/amd64
	System      string `json:"system,omitempty"` // distribution and kernel
	Go          string `json:"go"`
	Version     string `json:"version"` // of bucketring
	Commit      string `json:"commit,omitempty"`
	Modified    bool   `json:"modified,omitempty"` // built with uncommitted changes
	// Versions are the versions of the servers under test, such as Redis.
	Versions []Flag `json:"versions,omitempty"`
}

// CaptureEnvironment describes this machine and this program, without host names, users
// or addresses.
func CaptureEnvironment() Environment {
	build := buildinfo.Read()
	e := Environment{
		Cores:    runtime.GOMAXPROCS(0),
		OS:       runtime.GOOS + "/" + runtime.GOARCH,
		Go:       runtime.Version(),
		Version:  build.Version,
		Commit:   build.Commit,
		Modified: build.Modified,
	}
	// On systems without these files the fields stay empty.
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	memory, _ := os.ReadFile("/proc/meminfo")
	release, _ := os.ReadFile("/etc/os-release")
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	e.CPU = field(cpu, "model name", ":")
	if kib, err := strconv.ParseInt(strings.TrimSuffix(field(memory, "MemTotal", ":"), " kB"), 10, 64); err == nil {
		e.MemoryBytes = kib * 1024
	}
	e.System = strings.Trim(field(release, "PRETTY_NAME", "="), `"`)
	if k := strings.TrimSpace(string(kernel)); k != "" {
		e.System = strings.TrimPrefix(e.System+", kernel "+k, ", ")
	}
	return e
}

// field returns the value of the first line "name<separator>value".
func field(file []byte, name, separator string) string {
	lines := bufio.NewScanner(bytes.NewReader(file))
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), separator); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
