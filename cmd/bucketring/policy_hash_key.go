// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// Bounds of an API key in bytes. The minimum is 16 random bytes in base64: the hash of
// a shorter key could be reversed by guessing.
const (
	minAPIKey = 22
	maxAPIKey = 4096
)

func newPolicyHashKey(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hash-key",
		Short: "Print the policy entry of an API key",
		Long: `Read an API key from standard input and print its entry for api_keys in a policy.
The entry has only the SHA-256 of the API key, so that readers of the file cannot use
it. The API key is not a flag, because other users of the machine can see flags.

Use a random API key of at least 22 characters: a key that a person made up can be
guessed from its hash. A line end after the API key is ignored.`,
		Example: `  openssl rand -hex 32 | tee alice.key | bucketring policy hash-key --key acme/alice
  bucketring policy hash-key < alice.key`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 { // perhaps the API key, so it is not repeated
				return usageError(cmd, errors.New("the API key is read from standard input, and is not an argument"), cmd.CommandPath()+" < alice.key")
			}
			return nil
		},
	}
	owner := cmd.Flags().String("key", "", "key that calls with the API key are charged to, such as acme/alice")
	tier := cmd.Flags().String("tier", "", "tier of the key; empty means the tier that the policy assigns")
	output := addFormat(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *owner != "" {
			if err := limiter.ValidateKey(*owner); err != nil {
				return usageError(cmd, fmt.Errorf("--key: %w, got %q", err, *owner), "")
			}
		}
		apiKey, err := readAPIKey(cmd.InOrStdin())
		if err != nil {
			return usageError(cmd, err, "openssl rand -hex 32 | "+cmd.CommandPath())
		}
		if *output == formatJSON {
			return s.writeJSON(struct {
				Hash string `json:"hash"`
				Key  string `json:"key,omitempty"`
				Tier string `json:"tier,omitempty"`
			}{policy.HashAPIKey(apiKey), *owner, *tier})
		}
		entry := fmt.Sprintf("hash: %q", policy.HashAPIKey(apiKey))
		if *owner != "" {
			entry += fmt.Sprintf(", key: %q", *owner)
		}
		if *tier != "" {
			entry += fmt.Sprintf(", tier: %q", *tier)
		}
		s.printf("- { %s }\n", entry)
		if *owner == "" {
			s.notef("note: the entry needs a key, such as key: \"acme/alice\", which --key adds\n")
		}
		return nil
	}
	return cmd
}

// readAPIKey reads an API key. Its errors do not contain it.
func readAPIKey(in io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxAPIKey+3))
	if err != nil {
		return "", fmt.Errorf("read the API key: %w", err)
	}
	apiKey := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case apiKey == "":
		return "", errors.New("standard input has no API key")
	case len(apiKey) < minAPIKey:
		return "", fmt.Errorf("the API key must have at least %d characters, got %d", minAPIKey, len(apiKey))
	case len(apiKey) > maxAPIKey:
		return "", fmt.Errorf("the API key must have at most %d characters", maxAPIKey)
	case strings.ContainsFunc(apiKey, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errors.New("the API key must be ASCII without spaces, because it is sent in a header")
	}
	return apiKey, nil
}
