// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bucketring/bucketring/internal/config"
)

// testRun runs a command line in this process.
func testRun(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	s := &streams{
		out: &out, err: &errs, lookupEnv: func(string) (string, bool) { return "", false },
		height: func() int { return 0 }, width: func() int { return 0 },
	}
	root := newRoot(s)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(t.Context())
	code = s.report(err, wantsJSON(cmd, args))
	return out.String(), errs.String(), code
}

// eachFlag calls do for every flag of every command.
func eachFlag(cmd *cobra.Command, do func(*cobra.Command, *pflag.Flag)) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) { do(cmd, f) })
	for _, c := range cmd.Commands() {
		eachFlag(c, do)
	}
}

// TestChoices: shells complete every flag with choices, its help names all of them, and its
// default is one.
func TestChoices(t *testing.T) {
	s := newStreams(nil, nil, func(string) (string, bool) { return "", false })
	found := map[string]int{}
	eachFlag(newRoot(s), func(cmd *cobra.Command, f *pflag.Flag) {
		list := f.Annotations[config.ChoicesAnnotation]
		if list == nil {
			return
		}
		found[f.Name]++
		where := cmd.CommandPath() + " --" + f.Name
		for _, value := range list {
			if !strings.Contains(f.Usage, value) && f.Name != "metrics" {
				t.Errorf("%s: the help does not name %q: %s", where, value, f.Usage)
			}
		}
		words := append([]string{cobra.ShellCompRequestCmd}, strings.Fields(cmd.CommandPath())[1:]...)
		stdout, _, _ := testRun(t, append(words, "--"+f.Name, "")...)
		got := strings.Split(strings.TrimSpace(stdout), "\n")
		if got = got[:len(got)-1]; !slices.Equal(got, list) { // the last line is a directive
			t.Errorf("%s is completed with %q, want %q", where, got, list)
		}
	})
	for _, name := range []string{"output", "tls", "log-level", "kind", "priority", "charge", "arrivals", "scopes", "on-disconnect", "envoy-body", "metrics"} {
		if found[name] == 0 {
			t.Errorf("no flag --%s has choices", name)
		}
	}
}

// A list is completed after its last comma.
func TestChoicesOfAList(t *testing.T) {
	stdout, _, _ := testRun(t, cobra.ShellCompRequestCmd, "auth", "token", "--scopes", "call,re")
	if !strings.Contains(stdout, "call,read\n") {
		t.Errorf("completed with %q, want call,read", stdout)
	}
}

// TestErrorsAsJSON: every command with -o reports a usage error in one line of JSON.
func TestErrorsAsJSON(t *testing.T) {
	s := newStreams(nil, nil, func(string) (string, bool) { return "", false })
	commands := 0
	eachFlag(newRoot(s), func(cmd *cobra.Command, f *pflag.Flag) {
		if f.Name != formatName || f.Value.Type() != formatType {
			return
		}
		commands++
		words := strings.Fields(cmd.CommandPath())[1:]
		for _, args := range [][]string{
			append(slices.Clone(words), "-o", "json", "--no-such-flag"),
			append(slices.Clone(words), "--no-such-flag", "--output=json"),
		} {
			stdout, stderr, code := testRun(t, args...)
			if code != exitUsage || stdout != "" || strings.Count(stderr, "\n") != 1 ||
				!strings.HasPrefix(stderr, `{"error":"invalid_usage","message":"unknown flag`) || !strings.Contains(stderr, `"hint":"bucketring `) {
				t.Errorf("%s: exit code %d, stdout %q, stderr %q, want one line of JSON", strings.Join(args, " "), code, stdout, stderr)
			}
		}
	})
	if commands < 20 {
		t.Errorf("only %d commands have -o", commands)
	}
	if _, stderr, _ := testRun(t, "status", "--no-such-flag"); !strings.HasPrefix(stderr, "error: unknown flag") {
		t.Errorf("without -o json: %q, want text", stderr)
	}
}

// A flag of the other address says which one it is.
func TestOtherAddress(t *testing.T) {
	for _, test := range []struct{ command, flag, want string }{
		{"status", "--server", "try: this command asks the HTTP API: --http 127.0.0.1:6470\n"},
		{"check", "--http", "try: this command asks the gRPC address: --server 127.0.0.1:6471\n"},
	} {
		if _, stderr, code := testRun(t, test.command, test.flag, "x"); code != exitUsage || !strings.HasSuffix(stderr, test.want) {
			t.Errorf("%s %s: %d, %q, want %q", test.command, test.flag, code, stderr, test.want)
		}
	}
}
