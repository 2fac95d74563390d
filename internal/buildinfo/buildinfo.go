// SPDX-License-Identifier: Apache-2.0

// Package buildinfo identifies the build of this binary, as recorded by the Go
// toolchain.
package buildinfo

import "runtime/debug"

// Info identifies a build. Fields without a recorded value are empty.
type Info struct {
	Version  string `json:"version"` // v1.2.3, a pseudo-version, devel-<commit>, or "(devel)" without a commit
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"time,omitempty"` // of the commit, RFC 3339
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
}

// version is set by -ldflags "-X …/internal/buildinfo.version=v1.2.3" in builds
// without version control, such as those of container images.
var version string

// Read returns the build of the running binary.
func Read() Info {
	info := Info{Version: "(devel)"}
	if b, ok := debug.ReadBuildInfo(); ok {
		info = fromBuild(b)
	}
	if version != "" {
		info.Version = version
	}
	return info
}

func fromBuild(b *debug.BuildInfo) Info {
	info := Info{Version: b.Main.Version, Go: b.GoVersion}
	if info.Version == "" {
		info.Version = "(devel)"
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Commit = s.Value
		case "vcs.time":
			info.Time = s.Value
		case "vcs.modified":
			info.Modified = s.Value == "true"
		}
	}
	if info.Version == "(devel)" && info.Commit != "" {
		info.Version = "devel-" + info.Commit[:min(len(info.Commit), 12)]
		if info.Modified {
			info.Version += "+dirty"
		}
	}
	return info
}
