// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/limiter/policy"
)

func newDev(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a node to try things out, with nothing to configure",
		Long: `Run a node on this machine with the built-in policy and nothing to configure. It
forgets everything when it ends.

With --policy it reads that file and goes on watching it: a change of a limit is
in force as soon as the file is saved, and a mistake changes nothing and is
reported. A file that does not exist is first written, from the built-in policy.`,
		Example: `  bucketring dev
  bucketring dev --policy policy.yaml`,
		Args: arguments(),
	}
	c := config.Default()
	c.Name, c.LogFormat = "dev", "text"
	flags := cmd.Flags()
	flags.StringVar(&c.Policy, "policy", "", "policy file or directory to watch; a missing file is written (default: the built-in policy)")
	flags.StringVar(&c.HTTP, "http", c.HTTP, "address of the JSON API, health and metrics")
	flags.StringVar(&c.GRPC, "grpc", c.GRPC, "address of the gRPC API")
	flags.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := invalidConfig(cmd, c); err != nil {
			return err
		}
		if c.Policy != "" {
			if err := s.writeMissing(c.Policy); err != nil {
				return err
			}
		}
		log := s.logger(c.LogFormat, c.LogLevel)
		return s.run(cmd.Context(), c, log, func(n *node.Node) { s.note("%s", welcome(n, c.Policy)) })
	}
	return cmd
}

// writeMissing writes the built-in policy to a path where there is nothing.
func (s *streams) writeMissing(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return failed(fmt.Errorf("write the built-in policy: %w", err), "")
	}
	_, err = f.WriteString(policy.DefaultYAML())
	if err := errors.Join(err, f.Close()); err != nil {
		return failed(fmt.Errorf("write the built-in policy: %w", err), "")
	}
	s.note("wrote the built-in policy to %s\n", path)
	return nil
}

// welcome says what to do next.
func welcome(n *node.Node, policyPath string) string {
	limits := "to change limits while it runs: bucketring dev --policy policy.yaml"
	if policyPath != "" {
		limits = "edit " + policyPath + " and save it: the limits change at once"
	}
	server := ""
	if address := n.GRPCAddr(); address != defaultServer {
		server = " --server " + address
	}
	return fmt.Sprintf(`
bucketring is ready. It keeps nothing: state is gone when it ends.
%s
try: curl -si %s/v1/check -d '{"key":"acme/alice","tier":"free","input_tokens":1200}'
     bucketring check acme/alice --tier free --input-tokens 1200%s
%s; stop with Ctrl-C

`, urls(n), n.HTTPAddr(), server, limits)
}
