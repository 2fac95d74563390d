// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/freeport"
)

// TestDist makes the packages for this machine, as `make dist` does for all platforms, and
// installs them into directories.
func TestDist(t *testing.T) {
	requireProgram(t, "dpkg-deb", "dpkg")
	dist := t.TempDir()
	script := exec.Command("tools/dist.sh", dist, "v9.8.7-rc.1", "linux/"+runtime.GOARCH)
	script.Dir = root
	if out, err := script.CombinedOutput(); err != nil {
		t.Fatalf("dist.sh: %v\n%s", err, out)
	}
	name := "bucketring_9.8.7-rc.1_linux_" + runtime.GOARCH
	deb := "bucketring_9.8.7~rc.1_" + runtime.GOARCH + ".deb"
	if got, want := listed(t, dist), []string{"SHA256SUMS", name + ".cdx.json", name + ".tar.gz", deb}; !slices.Equal(got, sorted(want)) {
		t.Fatalf("dist has %q, want %q", got, sorted(want))
	}

	t.Run("checksums", func(t *testing.T) {
		out := must(t, "sh", "-c", "cd '"+dist+"' && sha256sum --check --strict SHA256SUMS")
		if n := strings.Count(out, ": OK"); n != 3 {
			t.Errorf("%d files have the right checksum, want 3:\n%s", n, out)
		}
	})

	t.Run("archive", func(t *testing.T) {
		dir := t.TempDir()
		must(t, "tar", "-xzf", filepath.Join(dist, name+".tar.gz"), "-C", dir)
		if got, want := listed(t, filepath.Join(dir, name)), []string{"CHANGELOG.md", "LICENSE", "NOTICE", "bucketring"}; !slices.Equal(got, want) {
			t.Errorf("the archive has %q, want %q", got, want)
		}
		program := filepath.Join(dir, name, "bucketring")
		requireRelease(t, program)
		requireModules(t, filepath.Join(dist, name+".cdx.json"), program)
	})

	t.Run("deb", func(t *testing.T) {
		dir := t.TempDir()
		must(t, "dpkg-deb", "-x", filepath.Join(dist, deb), dir)
		requireRelease(t, filepath.Join(dir, "usr/bin/bucketring"))
		requireDebian(t, filepath.Join(dist, deb), dir)
	})
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

// listed returns the names in a directory, sorted.
func listed(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// requireRelease checks that a program needs no library, and runs it.
func requireRelease(t *testing.T, program string) {
	t.Helper()
	file, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s has a %v segment, want a static program", program, p.Type)
		}
	}
	if out := must(t, program, "--version"); !strings.Contains(out, "v9.8.7-rc.1") {
		t.Errorf("--version = %q, want v9.8.7-rc.1 in it", out)
	}
}

// requireModules checks that an SBOM names every module of the program.
func requireModules(t *testing.T, sbom, program string) {
	t.Helper()
	text, err := os.ReadFile(sbom)
	if err != nil {
		t.Fatal(err)
	}
	var bom struct {
		Metadata struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	if c := bom.Metadata.Component; c.Name != "github.com/bucketring/bucketring" || c.Version != "v9.8.7-rc.1" {
		t.Errorf("the SBOM is of %s %s, want this module at v9.8.7-rc.1", c.Name, c.Version)
	}
	modules := 0
	for line := range strings.Lines(must(t, "go", "version", "-m", program)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "dep" {
			continue
		}
		modules++
		if !slices.Contains(bom.Components, struct{ Name, Version string }{fields[1], fields[2]}) {
			t.Errorf("the SBOM does not name %s %s", fields[1], fields[2])
		}
	}
	if modules == 0 {
		t.Error("go version -m names no module")
	}
}

// requireDebian checks what a package contains, and that a node starts with its settings.
func requireDebian(t *testing.T, deb, dir string) {
	t.Helper()
	info := must(t, "dpkg-deb", "--info", deb)
	for _, want := range []string{"Package: bucketring", "Version: 9.8.7~rc.1", "Architecture: " + runtime.GOARCH, "postinst", "prerm", "postrm"} {
		if !strings.Contains(info, want) {
			t.Errorf("dpkg-deb --info has no %q:\n%s", want, info)
		}
	}
	contents := must(t, "dpkg-deb", "--contents", deb)
	for _, want := range []string{
		"./usr/bin/bucketring", "./usr/lib/systemd/system/bucketring.service", "./usr/lib/sysusers.d/bucketring.conf",
		"./etc/bucketring/bucketring.yaml", "./etc/bucketring/policy/policy.yaml", "./usr/share/doc/bucketring/copyright",
	} {
		if !strings.Contains(contents, " "+want+"\n") {
			t.Errorf("the package has no %s:\n%s", want, contents)
		}
	}
	for line := range strings.Lines(contents) {
		if !strings.Contains(line, " root/root ") {
			t.Errorf("not owned by root: %s", line)
		}
	}
	unit, err := os.ReadFile(filepath.Join(dir, "usr/lib/systemd/system/bucketring.service"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(unit), "ExecStart=/usr/bin/bucketring serve --config /etc/bucketring/bucketring.yaml\n") {
		t.Errorf("the unit does not start the program of the package:\n%s", unit)
	}
	settings := filepath.Join(dir, "etc/bucketring/bucketring.yaml")
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.AddFlags(flags)
	if err := flags.Set("config", settings); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(flags, func(string) (string, bool) { return "", false })
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		t.Fatalf("the node would not start: %v", err)
	}
	http := freeport.Test(t)
	serve(t, "serve", "--config", settings, "--policy", filepath.Join(dir, "etc/bucketring/policy"), "--data", t.TempDir(),
		"--http", http, "--grpc", freeport.Test(t), "--gossip", freeport.Test(t))
	ready(t, http)
}
