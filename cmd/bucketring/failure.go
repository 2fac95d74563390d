// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
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
}

func (f *commandError) Error() string {
	if f.cause == nil {
		return fmt.Sprintf("exit %d", f.code)
	}
	return f.cause.Error()
}

func (f *commandError) Unwrap() error { return f.cause }

// errorWithHint returns an error that exits with 1. The hint may be empty.
func errorWithHint(cause error, hint string) error { return &commandError{exitFailed, cause, hint} }

// usageError returns the error of a wrong command line. An empty hint means the help
// of the command.
func usageError(cmd *cobra.Command, cause error, hint string) error {
	if hint == "" {
		hint = cmd.CommandPath() + " --help"
	}
	return &commandError{exitUsage, cause, hint}
}

// report prints err and returns the exit code.
func (s *streams) report(err error) int {
	if err == nil {
		return 0
	}
	f := &commandError{code: exitFailed, cause: err}
	errors.As(err, &f)
	if f.cause != nil {
		s.notef("error: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n       "))
	}
	if f.hint != "" {
		s.notef("try: %s\n", f.hint)
	}
	return f.code
}

// flagError turns an error of pflag into a usage error, with the nearest flag as the
// hint.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usageError(cmd, err, "")
	}
	name := unknown.GetSpecifiedName()
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
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		hint := ""
		if near := nearest.Word(args[0], names); near != "" {
			hint = cmd.CommandPath() + " " + near
		}
		return usageError(cmd, fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()), hint)
	}
	return cmd
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
