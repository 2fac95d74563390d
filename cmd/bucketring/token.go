// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/internal/tokenfile"
)

// Environment variables with the token of a caller, or its file.
const (
	envToken     = "BUCKETRING_TOKEN"
	envTokenFile = "BUCKETRING_TOKEN_FILE"
)

// tokenFlag is the token that a command sends to a node with --auth. There is no flag for
// the token itself, because other users of the machine can see flags.
type tokenFlag struct{ file string }

func (f *tokenFlag) declare(flags *pflag.FlagSet) {
	flags.StringVar(&f.file, "token-file", "", "file with the token for a node with --auth (default $"+envTokenFile+", or the token in $"+envToken+")")
}

// source returns the source of the token, nil if there is none.
func (f *tokenFlag) source(cmd *cobra.Command, s *streams) (*tokenfile.Source, error) {
	name, path := "--token-file", f.file
	if path == "" {
		if token := s.flagOrEnv("", envToken, ""); token != "" {
			source, err := tokenfile.Static(token)
			if err != nil {
				return nil, usageError(cmd, fmt.Errorf("%s: %w", envToken, err), "")
			}
			return source, nil
		}
		name, path = envTokenFile, s.flagOrEnv("", envTokenFile, "")
	}
	if path == "" {
		return nil, nil
	}
	source, err := tokenfile.File(path)
	if err != nil {
		return nil, usageError(cmd, fmt.Errorf("%s: %w", name, err), "")
	}
	return source, nil
}

// tokenDialOptions are the options of connections that send the token.
func tokenDialOptions(source *tokenfile.Source) []grpc.DialOption {
	if source == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithPerRPCCredentials(source)}
}

// setToken adds the token to a request.
func setToken(r *http.Request, source *tokenfile.Source) error {
	if source == nil {
		return nil
	}
	header, err := source.Header()
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", header)
	return nil
}

// tokenHint is the hint of an error about credentials.
const tokenHint = "--token-file FILE, with a token that has the scope and the root; see: bucketring auth --help"

// refusedError returns the error of an HTTP answer that refuses the credentials, or nil if
// the answer is another one.
func refusedError(target string, resp *http.Response, body []byte) error {
	switch resp.StatusCode {
	case http.StatusBadRequest:
		if said := string(body); strings.Contains(said, "needs TLS") || strings.Contains(said, "HTTP request to an HTTPS server") {
			return errorWithHint(errors.New(target+": "+text.OneLine(said)), "--tls --tls-ca-file FILE, or --http https://"+target)
		}
		return nil
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
	default:
		return nil
	}
	var problem struct{ Message string }
	if json.Unmarshal(body, &problem) != nil || problem.Message == "" {
		return nil
	}
	return errorWithHint(errors.New(target+": "+problem.Message), tokenHint)
}
