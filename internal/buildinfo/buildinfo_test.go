// SPDX-License-Identifier: Apache-2.0

package buildinfo

import (
	"runtime/debug"
	"testing"
)

func TestFromBuild(t *testing.T) {
	got := fromBuild(&debug.BuildInfo{
		GoVersion: "go1.26.8",
		Main:      debug.Module{Version: "v1.2.3"},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
		},
	})
	want := Info{Version: "v1.2.3", Commit: "abc", Time: "2026-01-02T03:04:05Z", Modified: true, Go: "go1.26.8"}
	if got != want {
		t.Errorf("fromBuild = %+v, want %+v", got, want)
	}
}

func TestReadIsNeverEmpty(t *testing.T) {
	if got := Read(); got.Version == "" || got.Go == "" {
		t.Errorf("Read = %+v, want a version and a Go version", got)
	}
}

// A build of go build without a version is known by its commit.
func TestDevelopmentBuildHasItsCommit(t *testing.T) {
	build := &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.modified", Value: "true"},
	}}
	if got := fromBuild(build).Version; got != "devel-0123456789ab+dirty" {
		t.Errorf("version %q, want the commit and that it was modified", got)
	}
	if got := fromBuild(&debug.BuildInfo{}).Version; got != "(devel)" {
		t.Errorf("version %q of a build without version control, want (devel)", got)
	}
}
