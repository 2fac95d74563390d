// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/bucketring/bucketring/internal/config"
)

// TestUnit checks the systemd unit as far as that is possible without systemd as the first
// process: that it has no mistakes, that little is exposed, and that the node accepts the
// settings which are beside it. The unit has not been run.
func TestUnit(t *testing.T) {
	requireProgram(t, "systemd-analyze", "systemd")
	const dir = root + "/deploy/systemd/"
	text, err := os.ReadFile(dir + "bucketring.service")
	if err != nil {
		t.Fatal(err)
	}
	const installed = "/usr/local/bin/bucketring"
	if strings.Count(string(text), installed) != 1 {
		t.Fatalf("the unit does not start %s:\n%s", installed, text)
	}
	unit := filepath.Join(t.TempDir(), "bucketring.service")
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), installed, binary(t))), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := must(t, "systemd-analyze", "verify", unit); strings.Contains(out, "bucketring.service:") {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	// The threshold is in tenths: 2.0 of 10.
	must(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", unit)

	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.AddFlags(flags)
	if err := flags.Set("config", dir+"bucketring.yaml"); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(flags, func(string) (string, bool) { return "", false })
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		t.Errorf("the node would not start: %v", err)
	}
}
