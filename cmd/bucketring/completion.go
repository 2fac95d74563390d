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
		Short: "Print a script that completes commands in a shell",
		Long:  "Print a script with which the named shell completes commands and flags.",
		Example: `  source <(bucketring completion bash)
  bucketring completion zsh > "${fpath[1]}/_bucketring"
  bucketring completion fish > ~/.config/fish/completions/bucketring.fish`,
		Args:      arguments("SHELL"),
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
			try := ""
			if near := nearest.Word(args[0], shells); near != "" {
				try = cmd.CommandPath() + " " + near
			}
			return misused(cmd, fmt.Errorf("unknown shell %q, want %s", args[0], strings.Join(shells, ", ")), try)
		},
	}
}
