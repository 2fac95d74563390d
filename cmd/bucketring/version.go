// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/buildinfo"
)

func newVersion(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long:  "Print the version, the commit it was built from, and the version of Go.",
		Example: `  bucketring version
  bucketring version -o json`,
		Args: exactArgs(),
	}
	output := addFormat(cmd.Flags())
	cmd.RunE = func(*cobra.Command, []string) error {
		info := buildinfo.Read()
		if *output == formatJSON {
			return s.writeJSON(info)
		}
		s.printf("%s\n", versionLine(info))
		return nil
	}
	return cmd
}

// versionLine is what "version" and --version print.
func versionLine(info buildinfo.Info) string {
	if info.Commit == "" {
		return "bucketring " + info.Version + " " + info.Go
	}
	return "bucketring " + info.Version + " (" + info.Commit + ", " + info.Time + ") " + info.Go
}
