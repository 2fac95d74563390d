// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/nearest"
)

func newCompletion(s *streams) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a completion script for a shell",
		Long:  "Print a script that completes commands and flags in the named shell.",
		Example: `  source <(bucketring completion bash)
  bucketring completion zsh > "${fpath[1]}/_bucketring"
  bucketring completion fish > ~/.config/fish/completions/bucketring.fish`,
		Args:      exactArgs("SHELL"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(s.out, true)
			case "zsh":
				return root.GenZshCompletion(s.out)
			case "fish":
				return root.GenFishCompletion(s.out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(s.out)
			}
			hint := ""
			if near := nearest.Word(args[0], shells); near != "" {
				hint = cmd.CommandPath() + " " + near
			}
			return usageError(cmd, fmt.Errorf("unknown shell %q, want %s", args[0], strings.Join(shells, ", ")), hint)
		},
	}
}
