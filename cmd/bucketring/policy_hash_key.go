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

// The bounds of an API key that comes in. The shortest is what 16 random bytes
// are in base64, since the hash of a short key can be guessed from.
const (
	minAPIKey = 22
	maxAPIKey = 4096
)

func newPolicyHashKey(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hash-key",
		Short: "Print what stands in a policy for an API key",
		Long: `Read an API key from standard input and print the entry of api_keys that knows it.
The file has the SHA-256 of the key and never the key, so that whoever reads the
file can't use it. The key is not read from the command line, where others see it.

Take a random key of at least 22 characters: the hash of one that a person made up
can be guessed from. A line end after the key does not count.`,
		Example: `  openssl rand -hex 32 | tee alice.key | bucketring policy hash-key --key acme/alice
  bucketring policy hash-key < alice.key`,
		Args: arguments(),
	}
	owner := cmd.Flags().String("key", "", "who is charged, such as acme/alice")
	tier := cmd.Flags().String("tier", "", "tier of the key; empty means that the policy decides")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *owner != "" {
			if err := limiter.ValidateKey(*owner); err != nil {
				return misused(cmd, fmt.Errorf("--key: %s, got %q", err, *owner), "")
			}
		}
		apiKey, err := readAPIKey(cmd.InOrStdin())
		if err != nil {
			return misused(cmd, err, "openssl rand -hex 32 | "+cmd.CommandPath())
		}
		entry := fmt.Sprintf("hash: %q", policy.HashAPIKey(apiKey))
		if *owner != "" {
			entry += fmt.Sprintf(", key: %q", *owner)
		}
		if *tier != "" {
			entry += fmt.Sprintf(", tier: %q", *tier)
		}
		s.printf("- { %s }\n", entry)
		return nil
	}
	return cmd
}

// readAPIKey never shows what it read.
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
		return "", errors.New("the API key must be ASCII without spaces, since it is sent in a header")
	}
	return apiKey, nil
}
