// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func newLimits(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "limits KEY",
		Short: "Show what remains of the limits of a key",
		Long:  `Show every limit of every level of a key and what remains of it. Nothing is charged.`,
		Example: `  bucketring limits acme/alice
  bucketring limits acme/alice --tier free --model llama-3-70b -o json`,
		Args: exactArgs("KEY"),
	}
	c := newAPICall(s)
	c.tierAndModelFlags(cmd)
	c.connectionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		query := url.Values{"key": {args[0]}}
		for name, value := range c.body {
			query.Set(name, fmt.Sprint(value))
		}
		return c.do(cmd, http.MethodGet, "/v1/limits?"+query.Encode(), nil, func(node *remoteService, _ *responseRecorder) {
			s.printf("tier %s\n", node.peeked.GetTier())
			s.printRoute(limitsRoute(node.peeked, node.server))
			s.printLimits(node.peeked.GetLimits())
		})
	}
	return cmd
}
