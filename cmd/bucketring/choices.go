// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/limiter"
)

// choiceFlag is a flag whose value is one of a fixed set. The set is what it accepts, what its
// help lists and what shells complete.
type choiceFlag struct {
	value   *string
	choices []string
	kind    string // its type in the help
}

// addChoice declares a flag with choices, of which the first is the default. Its help is about
// what they are, and is followed by their list.
func addChoice(flags *pflag.FlagSet, name, help string, choices ...string) *string {
	value := choices[0]
	flags.Var(&choiceFlag{&value, choices, "string"}, name, help+listChoices(choices))
	withChoices(flags, name, choices...)
	return &value
}

// withChoices says which values a flag may have that something else validates.
func withChoices(flags *pflag.FlagSet, name string, choices ...string) {
	if err := flags.SetAnnotation(name, config.ChoicesAnnotation, choices); err != nil {
		panic(err) // there is no such flag
	}
}

// listChoices lists choices as a message has them: "table, json or junit".
func listChoices(choices []string) string {
	last := len(choices) - 1
	if last == 0 {
		return choices[0]
	}
	return strings.Join(choices[:last], ", ") + " or " + choices[last]
}

// priorityNames returns the names of the classes of calls.
func priorityNames() []string {
	names := make([]string, len(limiter.Priorities))
	for i, class := range limiter.Priorities {
		names[i] = class.String()
	}
	return names
}

// String implements pflag.Value.
func (f *choiceFlag) String() string { return *f.value }

// Type implements pflag.Value.
func (f *choiceFlag) Type() string { return f.kind }

// Set implements pflag.Value.
func (f *choiceFlag) Set(text string) error {
	if slices.Contains(f.choices, text) {
		*f.value = text
		return nil
	}
	if near := nearest.Word(text, f.choices); near != "" {
		return fmt.Errorf("must be %s; did you mean %s?", listChoices(f.choices), near)
	}
	return errors.New("must be " + listChoices(f.choices))
}

// completeChoices lets shells complete the values of all flags with choices, of cmd and of the
// commands below it.
func completeChoices(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		list := f.Annotations[config.ChoicesAnnotation]
		if list == nil {
			return
		}
		isList := f.Value.Type() == "list" || f.Value.Type() == "stringSlice"
		err := cmd.RegisterFlagCompletionFunc(f.Name, func(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			before := ""
			if at := strings.LastIndex(begun, ","); isList && at >= 0 {
				before = begun[:at+1]
			}
			values := make([]cobra.Completion, len(list))
			for i, value := range list {
				values[i] = before + value
			}
			return values, cobra.ShellCompDirectiveNoFileComp
		})
		if err != nil {
			panic(err) // it is registered twice
		}
	})
	for _, c := range cmd.Commands() {
		completeChoices(c)
	}
}
