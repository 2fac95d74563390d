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

// failure is an error that knows what to exit with and what to try instead.
type failure struct {
	code  int
	cause error  // nil: the output says it all
	try   string // a command or an advice, "" if there is none
}

func (f *failure) Error() string {
	if f.cause == nil {
		return fmt.Sprintf("exit %d", f.code)
	}
	return f.cause.Error()
}

func (f *failure) Unwrap() error { return f.cause }

func failed(cause error, try string) error { return &failure{exitFailed, cause, try} }

// misused is a mistake in the command line; without advice, it points to the help.
func misused(cmd *cobra.Command, cause error, try string) error {
	if try == "" {
		try = cmd.CommandPath() + " --help"
	}
	return &failure{exitUsage, cause, try}
}

// report prints err for a person and returns what to exit with.
func (s *streams) report(err error) int {
	if err == nil {
		return 0
	}
	f := &failure{code: exitFailed, cause: err}
	errors.As(err, &f)
	if f.cause != nil {
		s.note("error: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n       "))
	}
	if f.try != "" {
		s.note("try: %s\n", f.try)
	}
	return f.code
}

// badFlag makes a usage error of what pflag says, with the nearest flag.
func badFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return misused(cmd, err, "")
	}
	name := unknown.GetSpecifiedName()
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := nearest.Word(name, names); near != "" && len(name) > 1 {
		return misused(cmd, fmt.Errorf("unknown flag --%s", name), fmt.Sprintf("%s --%s", cmd.CommandPath(), near))
	}
	return misused(cmd, err, "")
}

// group makes cmd a noun: alone it prints its help, and with a word that is
// none of its commands it is a usage error.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		try := ""
		if near := nearest.Word(args[0], names); near != "" {
			try = cmd.CommandPath() + " " + near
		}
		return misused(cmd, fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()), try)
	}
	return cmd
}

// arguments wants exactly these, by name.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return misused(cmd, fmt.Errorf("missing argument %s", names[len(args)]), "")
		case len(args) > len(names):
			return misused(cmd, fmt.Errorf("unexpected argument %q", args[len(names)]), "")
		}
		return nil
	}
}
