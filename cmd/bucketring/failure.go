// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bucketring/bucketring/internal/nearest"
)

// Exit codes.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitDenied    = 3
	exitUnhealthy = 4
)

// commandError is an error with an exit code and a hint.
type commandError struct {
	code  int
	cause error  // nil: the output has the reason
	hint  string // what to try instead; may be empty

	name, field string // of -o json, as in the HTTP API; "": as the exit code says
}

func (f *commandError) Error() string {
	if f.cause == nil {
		return fmt.Sprintf("exit %d", f.code)
	}
	return f.cause.Error()
}

func (f *commandError) Unwrap() error { return f.cause }

// errorWithHint returns an error that exits with 1. The hint may be empty.
func errorWithHint(cause error, hint string) error {
	return &commandError{code: exitFailed, cause: cause, hint: hint}
}

// usageError returns the error of a wrong command line. An empty hint means the help
// of the command.
func usageError(cmd *cobra.Command, cause error, hint string) error {
	if hint == "" {
		hint = cmd.CommandPath() + " --help"
	}
	return &commandError{code: exitUsage, cause: cause, hint: hint}
}

// report prints err, as JSON if asJSON, and returns the exit code.
func (s *streams) report(err error, asJSON bool) int {
	if err == nil {
		return 0
	}
	f := &commandError{code: exitFailed, cause: err}
	errors.As(err, &f)
	if asJSON {
		s.reportJSON(err, f)
		return f.code
	}
	if f.cause != nil {
		s.notef("error: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n       "))
	}
	if f.hint != "" {
		s.notef("try: %s\n", f.hint)
	}
	return f.code
}

// errorNames are the codes of errors that no node has answered, by exit codes.
var errorNames = map[int]string{exitUsage: "invalid_usage", exitUnhealthy: "unhealthy"}

// reportJSON writes an error in the form of the HTTP API, with a hint, in one line. Of an error
// without a cause the output has said everything.
func (s *streams) reportJSON(err error, f *commandError) {
	if f.cause == nil {
		return
	}
	e := json.NewEncoder(s.err)
	e.SetEscapeHTML(false)
	_ = e.Encode(struct {
		Error   string `json:"error"`
		Field   string `json:"field,omitempty"`
		Message string `json:"message"`
		Hint    string `json:"hint,omitempty"`
	}{cmp.Or(f.name, errorNames[f.code], "failed"), f.field, err.Error(), f.hint})
}

// wantsJSON reports whether the errors of a command are to be JSON: whether it has -o, and
// -o json is among args, also behind what could not be parsed.
func wantsJSON(cmd *cobra.Command, args []string) bool {
	if cmd == nil {
		return false
	}
	flag := cmd.Flags().Lookup(formatName)
	if flag == nil || flag.Value.Type() != formatType {
		return false
	}
	if flag.Changed {
		return flag.Value.String() == string(formatJSON)
	}
	for i, arg := range args {
		switch arg {
		case "--":
			return false
		case "-o" + string(formatJSON), "-o=" + string(formatJSON), "--" + formatName + "=" + string(formatJSON):
			return true
		case "-o", "--" + formatName:
			if i+1 < len(args) && args[i+1] == string(formatJSON) {
				return true
			}
		}
	}
	return false
}

// optionName is the name that an error of options begins with.
var optionName = regexp.MustCompile(`(?m)^[a-z_]+: `)

// namingFlags returns an error of options, whose lines begin with their names, with those
// that are flags of cmd written as flags.
func namingFlags(cmd *cobra.Command, err error) error {
	return errors.New(optionName.ReplaceAllStringFunc(err.Error(), func(name string) string {
		flag := strings.ReplaceAll(strings.TrimSuffix(name, ": "), "_", "-")
		if cmd.Flags().Lookup(flag) == nil {
			return name
		}
		return "--" + flag + ": "
	}))
}

// flagError turns an error of pflag into a usage error, with the nearest flag as the
// hint.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usageError(cmd, err, "")
	}
	name := unknown.GetSpecifiedName()
	for _, other := range []struct{ name, instead, is string }{
		{"server", "http", "this command asks the HTTP API: --http " + defaultHTTP},
		{"http", "server", "this command asks the gRPC address: --server " + defaultServer},
	} {
		if name == other.name && cmd.Flags().Lookup(other.instead) != nil {
			return usageError(cmd, fmt.Errorf("unknown flag --%s", name), other.is)
		}
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := nearest.Word(name, names); near != "" && len(name) > 1 {
		return usageError(cmd, fmt.Errorf("unknown flag --%s", name), fmt.Sprintf("%s --%s", cmd.CommandPath(), near))
	}
	return usageError(cmd, err, "")
}

// commandGroup makes cmd a command that only has subcommands. Alone it prints its
// help; an unknown subcommand is a usage error.
func commandGroup(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknownCommand(cmd, args[0], cmd.CommandPath()+" ")
	}
	return cmd
}

// unknownCommand returns the error of a subcommand of cmd that does not exist. Its hint is
// what was probably meant, after try.
func unknownCommand(cmd *cobra.Command, name, try string) error {
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	hint := ""
	if near := nearest.Word(name, names); near != "" {
		hint = try + near
	}
	return usageError(cmd, fmt.Errorf("unknown command %q for %q", name, cmd.CommandPath()), hint)
}

// exactArgs requires exactly the named arguments.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageError(cmd, fmt.Errorf("missing argument %s", names[len(args)]), "")
		case len(args) > len(names):
			return usageError(cmd, fmt.Errorf("unexpected argument %q", args[len(names)]), "")
		}
		return nil
	}
}
