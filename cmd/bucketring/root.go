// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/buildinfo"
)

func newRoot(s *streams) *cobra.Command {
	root := commandGroup(&cobra.Command{
		Use:   "bucketring",
		Short: "A rate limiter for AI inference: requests, tokens, dollars and concurrent calls",
		Long: `bucketring limits calls to AI models by requests, tokens, dollars and concurrent
calls. A call is charged to all of its limits, or denied and charged to none.

Start with "bucketring dev". It needs no configuration.

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 denied, 4 unhealthy. With -o json, an
error is a line of JSON on standard error: {"error": CODE, "message": TEXT, "hint": TEXT}.`,
		Example: `  bucketring dev
  bucketring check acme/alice --tier free --input-tokens 1200
  bucketring status
  bucketring serve --config node.yaml --policy policy.yaml --data /var/lib/bucketring`,
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return s.checkEnvironment(cmd) }
	root.Version = versionLine(buildinfo.Read())
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetHelpCommand(newHelp())
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDefaultCmd = true // newCompletion replaces it
	root.PersistentFlags().SortFlags = false

	const run, ask, policies, measure = "run", "ask", "policies", "measure"
	root.AddGroup(
		&cobra.Group{ID: run, Title: "Run a node:"},
		&cobra.Group{ID: ask, Title: "Call a node:"},
		&cobra.Group{ID: policies, Title: "Write policies:"},
		&cobra.Group{ID: measure, Title: "Measure:"},
	)
	add := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			c.Flags().SortFlags = false
			root.AddCommand(c)
		}
	}
	add(run, newDev(s), newServe(s), newProxy(s), newHealth(s), newForget(s), newAdmin(s), newCerts(s), newAuth(s))
	add(ask, newCheck(s), newReserve(s), newSettle(s), newCancel(s), newLimits(s), newKeys(s), newTop(s), newStatus(s))
	add(policies, newPolicy(s))
	add(measure, newBench(s), newMockLLM(s))
	add("", newVersion(s), newCompletion(s))
	completeChoices(root)
	return root
}

// newHelp returns the command that prints the help of another one.
func newHelp() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "help [COMMAND...]",
		Short:   "Print the help of a command",
		Long:    "Print the help of a command, as its flag --help does.",
		Example: "  bucketring help policy check",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
			of, _, err := cmd.Root().Find(args)
			if err != nil || of == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			for _, c := range of.Commands() {
				if c.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		of := cmd.Root()
		for _, name := range args {
			next, rest, err := of.Find([]string{name})
			if err != nil || len(rest) > 0 || next == of {
				return unknownCommand(of, name, fmt.Sprintf("%s help%s ", cmd.Root().Name(), pathBelowRoot(of)))
			}
			of = next
		}
		of.InitDefaultHelpFlag()
		return of.Help()
	}
	return cmd
}

// pathBelowRoot returns the path of a command without the name of the program, with a space
// before each word.
func pathBelowRoot(cmd *cobra.Command) string {
	return cmd.CommandPath()[len(cmd.Root().Name()):]
}
