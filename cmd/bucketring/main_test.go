// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/freeport"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bucketring": main})
}

// waitLimit bounds every wait of a script.
const waitLimit = 15 * time.Second

// TestScripts runs the binary like a user. $HTTP, $GRPC and $GOSSIP are free addresses.
// $HTTP2, $HTTP3 and so on are those with ports that are higher by 10 and 20, which dev
// uses. Served nodes gossip at $GOSSIP.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			first, err := freeport.Pick(1, 2, portStep, portStep+1, portStep+2, 2*portStep, 2*portStep+1, 2*portStep+2)
			if err != nil {
				return err
			}
			for i, suffix := range []string{"", "2", "3"} {
				for j, name := range []string{"HTTP", "GRPC", "GOSSIP"} {
					env.Setenv(name+suffix, freeport.Address(first+i*portStep+j))
				}
			}
			env.Setenv("BUCKETRING_GOSSIP", env.Getenv("GOSSIP"))
			env.Setenv("BUCKETRING_SERVER", env.Getenv("GRPC"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":    ready,
			"until":    until,
			"signal":   sendSignal,
			"post":     post,
			"call":     call,
			"status":   awaitStatus,
			"synced":   awaitSync,
			"break":    breakFile,
			"exitcode": exitCode,
		},
	})
}

// ready [ADDRESS] waits until the node at an address (default: $HTTP) is ready.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	address := ts.Getenv("HTTP")
	if len(args) > 0 {
		address = args[0]
	}
	url := "http://" + address + "/readyz"
	wait(ts, "ready", func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// call ADDRESS KEY calls a model and prints the status and the body.
func call(ts *testscript.TestScript, _ bool, args []string) {
	_, err := ts.Stdout().Write([]byte(callModel(ts, args[0], args[1])))
	ts.Check(err)
}

func callModel(ts *testscript.TestScript, address, key string) string {
	const body = `{"model":"m","max_tokens":20,"messages":[{"role":"user","content":"hello"}]}`
	r, err := http.NewRequest(http.MethodPost, "http://"+address+"/v1/chat/completions", strings.NewReader(body))
	ts.Check(err)
	r.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	return fmt.Sprintf("%d %s\n", resp.StatusCode, bytes.TrimSpace(text))
}

// until PATTERN COMMAND... runs a command, or call, until its output matches.
func until(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[0])
	wait(ts, args[0], func() bool {
		if args[1] == "call" {
			return pattern.MatchString(callModel(ts, args[2], args[3]))
		}
		_ = ts.Exec(args[1], args[2:]...) // may be denied
		return pattern.MatchString(ts.ReadFile("stdout"))
	})
}

// signal NAME sends a signal to the last background command.
func sendSignal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{"TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}
	commands := ts.BackgroundCmds()
	ts.Check(commands[len(commands)-1].Process.Signal(signals[args[0]]))
}

// post PATH BODY prints the answer of the HTTP API and fails unless its status is 200.
func post(ts *testscript.TestScript, neg bool, args []string) {
	resp, err := http.Post("http://"+ts.Getenv("HTTP")+args[0], "", strings.NewReader(args[1]))
	ts.Check(err)
	defer resp.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(resp.Body)
	ts.Check(err)
	_, err = ts.Stdout().Write(body.Bytes())
	ts.Check(err)
	if ok := resp.StatusCode == http.StatusOK; ok == neg {
		ts.Fatalf("POST %s = %s: %s", args[0], resp.Status, body.Bytes())
	}
}

// status PATTERN waits until /status matches.
func awaitStatus(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[0])
	wait(ts, args[0], func() bool {
		resp, err := http.Get("http://" + ts.Getenv("HTTP") + "/status")
		ts.Check(err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		ts.Check(err)
		return pattern.Match(body)
	})
}

// synced waits until all that was decided before is on disk.
func awaitSync(ts *testscript.TestScript, _ bool, _ []string) {
	began := time.Now()
	wait(ts, "a sync of the journal", func() bool {
		resp, err := http.Get("http://" + ts.Getenv("HTTP") + "/status")
		ts.Check(err)
		defer resp.Body.Close()
		var status struct {
			Journal struct {
				LastSync time.Time `json:"last_sync"`
			} `json:"journal"`
		}
		ts.Check(json.NewDecoder(resp.Body).Decode(&status))
		return status.Journal.LastSync.After(began)
	})
}

// exitcode CODE COMMAND... runs a command and fails unless it exits with the code.
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if want, err := strconv.Atoi(args[0]); err != nil || got != want {
		ts.Fatalf("%s exits with %d, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// break PATTERN flips a bit in the middle of the only file whose name matches.
func breakFile(ts *testscript.TestScript, _ bool, args []string) {
	paths, err := filepath.Glob(ts.MkAbs(args[0]))
	if ts.Check(err); len(paths) != 1 {
		ts.Fatalf("%s matches %v, want one file", args[0], paths)
	}
	path := paths[0]
	text, err := os.ReadFile(path)
	ts.Check(err)
	text[len(text)/2] ^= 1
	ts.Check(os.WriteFile(path, text, 0o600))
}

func wait(ts *testscript.TestScript, what string, done func() bool) {
	deadline := time.Now().Add(waitLimit)
	for !done() {
		if time.Now().After(deadline) {
			ts.Fatalf("waited %s for %s", waitLimit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func tree(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		if c.Name() != "help" {
			tree(c, visit)
		}
	}
}

func testRoot(out *bytes.Buffer) *cobra.Command {
	return newRoot(&streams{out: out, err: out, lookupEnv: func(string) (string, bool) { return "", false }})
}

func TestHelp(t *testing.T) {
	var help bytes.Buffer
	tree(testRoot(&help), func(cmd *cobra.Command) {
		if cmd.Long == "" || cmd.Example == "" {
			t.Errorf("%s has no long help or no example", cmd.CommandPath())
		}
		help.WriteString("$ " + cmd.CommandPath() + " --help\n")
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		help.WriteString("\n")
	})
	const golden = "testdata/help.golden"
	if *update {
		if err := os.WriteFile(golden, help.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), help.String()); diff != "" {
		t.Errorf("help differs from %s: go test ./cmd/bucketring -update (-file +code):\n%s", golden, diff)
	}
}

// TestExamplesParse checks that every flag in an example exists.
func TestExamplesParse(t *testing.T) {
	var out bytes.Buffer
	flagName := regexp.MustCompile(`(?:^| )--?([a-z][a-z0-9-]*)`)
	tree(testRoot(&out), func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "bucketring" {
				continue
			}
			target, rest, err := testRoot(&out).Find(words[1:])
			if err != nil {
				t.Errorf("example %q: %v", line, err)
				continue
			}
			for _, m := range flagName.FindAllStringSubmatch(strings.Join(rest, " "), -1) {
				if target.Flags().Lookup(m[1]) == nil && target.Flags().ShorthandLookup(m[1]) == nil {
					t.Errorf("example %q: %s has no flag %q", line, target.CommandPath(), m[1])
				}
			}
		}
	})
}
