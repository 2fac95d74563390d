// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/limiter/policy/pricelist"
)

func newPolicyPrices(s *streams) *cobra.Command {
	return &cobra.Command{
		Use:   "prices FILE",
		Short: "Print the prices of LiteLLM's price table for a policy",
		Long: `Read LiteLLM's price table, model_prices_and_context_window.json, and print its prices
as the section prices of a policy. A policy may be a directory, so the section can be
a file of its own.

What a policy cannot express is listed on standard error, with the reason and the
models. Prices are exact; what is finer than a millionth of a dollar per million tokens
is rounded up and listed, too. The table has no price for other models: add one for "*".`,
		Example: `  bucketring policy prices model_prices_and_context_window.json > policy.d/prices.yaml
  bucketring policy check policy.d`,
		Args: exactArgs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			table, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read the price table: %w", err)
			}
			list, err := pricelist.Parse(table)
			if err != nil {
				return fmt.Errorf("%s is not a price table: %w", args[0], err)
			}
			for _, note := range list.Notes() {
				s.notef("%s\n", note)
			}
			if list.Len() == 0 {
				return fmt.Errorf("%s has no model with a price", args[0])
			}
			s.printf("%s", list.YAML())
			return nil
		},
	}
}
