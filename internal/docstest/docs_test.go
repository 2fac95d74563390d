// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

var (
	update = flag.Bool("update", false, "write the output of the commands into the documents, except for blocks with ...")
	pause  = flag.Duration("pause", 0, "how long a reader takes between two commands of a document other than README.md")
)

// readingPause is how long a reader of README.md takes between two commands.
const readingPause = 10 * time.Second

func TestConsoleBlocks(t *testing.T) {
	if testing.Short() {
		t.Skip("the commands are processes of their own, which the race detector does not see")
	}
	bin := buildBinary(t)
	for _, file := range documents(t) {
		sessions := blocks(t, file, "console")
		if len(sessions) == 0 {
			continue
		}
		t.Run(file, func(t *testing.T) {
			if strings.Contains(read(t, file), "$ redis-cli ") {
				needRedisCLI(t)
			}
			t.Parallel() // most of the time, commands wait for nodes and limits
			// Buckets refill while the commands run, so a busy machine may need more than
			// one attempt.
			wait := *pause
			if file == "README.md" {
				wait = readingPause
			}
			var diffs []string
			for range 3 {
				if diffs = runDocument(t, newSession(t, bin), file, sessions, wait); len(diffs) == 0 {
					return
				}
			}
			t.Error(strings.Join(diffs, "\n"))
		})
	}
}

// needRedisCLI skips the test without redis-cli, but not in CI.
func needRedisCLI(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("redis-cli"); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("redis-cli is not installed: install the package redis-tools")
	}
	t.Skip("redis-cli is not installed")
}

// runDocument runs the console blocks of a file and returns the differences between
// their output and the file. The reader waits between two commands.
func runDocument(t *testing.T, s *session, file string, sessions []block, wait time.Duration) (diffs []string) {
	t.Helper()
	lines := strings.Split(read(t, file), "\n")
	shift := 0 // lines added above by updates
	for _, b := range sessions {
		for _, step := range b.steps() {
			if s.node != nil { // else nothing changes meanwhile
				time.Sleep(wait)
			}
			got := strings.Split(strings.TrimRight(s.run(t, step.command), "\n"), "\n")
			if step.output == nil {
				continue // the document shows no output
			}
			err := sameOutput(step.output, got)
			switch {
			case err == nil:
			case *update && !slices.Contains(step.output, "..."):
				at := step.line + shift + strings.Count(step.command, "\n")
				lines = slices.Replace(lines, at, at+len(step.output), got...)
				shift += len(got) - len(step.output)
			default:
				diffs = append(diffs, fmt.Sprintf("%s:%d: %s: %v\noutput:\n%s", file, step.line, step.command, err, strings.Join(got, "\n")))
			}
		}
	}
	if *update {
		if err := os.WriteFile(filepath.Join(root, file), []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return diffs
}

func TestReadmeBeginsWithCommands(t *testing.T) {
	const file = "README.md"
	lines := strings.Split(read(t, file), "\n")
	if len(lines) > 220 {
		t.Errorf("%s has %d lines, want at most 220", file, len(lines))
	}
	found := blocks(t, file, "console")
	if len(found) == 0 {
		t.Fatalf("%s has no console block", file)
	}
	steps := found[0].steps()
	if len(steps) < 2 || len(steps[1].output) == 0 {
		t.Fatalf("%s begins with %v, want two commands and their output", file, steps)
	}
	if end := steps[1].line + len(steps[1].output); end >= 15 {
		t.Errorf("%s: the output of the second command ends at line %d, want before 15", file, end)
	}
}

func TestPolicyBlocksParse(t *testing.T) {
	n := 0
	for _, file := range documents(t) {
		for _, b := range blocks(t, file, "yaml") {
			n++
			if _, err := policy.Parse(file, []byte(b.text), limiter.NewCatalog()); err != nil {
				t.Errorf("%s:%d: %v", file, b.line, err)
			}
		}
	}
	if n < 4 {
		t.Errorf("the documents have %d policies, want more", n)
	}
}

// examples are the files that Go code in the documents is copied from.
var examples = []string{"rpc/client/example_test.go", "rpc/client/clienttest/example_test.go", "rpc/client/middleware/example_test.go", "rpc/resp/example_test.go"}

// TestGoBlocksAreExamples checks that Go code in the documents is a part of an
// example, which is compiled and run.
func TestGoBlocksAreExamples(t *testing.T) {
	indent := regexp.MustCompile(`(?m)^\t+`) // a block may be the body of a function
	var example string
	for _, file := range examples {
		example += indent.ReplaceAllString(read(t, file), "")
	}
	for _, file := range documents(t) {
		for _, b := range blocks(t, file, "go") {
			if !strings.Contains(example, indent.ReplaceAllString(b.text, "")) {
				t.Errorf("%s:%d: the block is not a part of %s:\n%s", file, b.line, strings.Join(examples, " or "), b.text)
			}
		}
	}
}

// fenced is a block that has no links.
var fenced = regexp.MustCompile("(?ms)^```.*?^```")

var link = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)

func TestLinkedFilesExist(t *testing.T) {
	for _, file := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(read(t, file), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s links to %s, which does not exist", file, m[1])
			}
		}
	}
}

var sourcePath = regexp.MustCompile("`((?:limiter|rpc|internal|cmd)/[\\w/.*]+)`")

func TestNamedFilesExist(t *testing.T) {
	for _, file := range documents(t) {
		for _, m := range sourcePath.FindAllStringSubmatch(read(t, file), -1) {
			if found, err := filepath.Glob(filepath.Join(root, m[1])); err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which does not exist", file, m[1])
			}
		}
	}
}

var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark|Example)[A-Z_]\\w*)`")

// TestNamedTestsExist checks that the tests named in the documents exist.
func TestNamedTestsExist(t *testing.T) {
	declared := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (\w+)\(`).FindAllStringSubmatch(string(source), -1) {
			declared[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range documents(t) {
		for _, m := range testName.FindAllStringSubmatch(read(t, file), -1) {
			if !declared[m[1]] {
				t.Errorf("%s names %s, which does not exist", file, m[1])
			}
		}
	}
}
