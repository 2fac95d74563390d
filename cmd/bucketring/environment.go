// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/internal/config"
)

// The environment variables that are no settings of a node or a proxy.
const (
	envServer  = "BUCKETRING_SERVER"
	envTLSName = "BUCKETRING_TLS_NAME"
)

func (s *streams) unknownVariables() []config.UnknownVariable {
	return config.UnknownVariables(s.environ, envServer, envTLSName, envToken, envTokenFile, local.ChildEnv)
}

// checkEnvironment returns an error for environment variables that are probably misspelled.
func (s *streams) checkEnvironment(cmd *cobra.Command) error {
	switch name := cmd.Name(); {
	case name == "help", name == "version", name == "completion", strings.HasPrefix(name, "__complete"):
		return nil // they read none
	}
	var misspelled []error
	for _, v := range s.unknownVariables() {
		if v.Near != "" {
			misspelled = append(misspelled, fmt.Errorf("unknown environment variable %s; did you mean %s?", v.Name, v.Near))
		}
	}
	if len(misspelled) > 0 {
		return usageError(cmd, errors.Join(misspelled...), "set the variable that was meant, and unset the other")
	}
	return nil
}

// warnEnvironment warns of environment variables that look like settings and are none.
func (s *streams) warnEnvironment(log *slog.Logger) {
	for _, v := range s.unknownVariables() {
		log.Warn("environment variable is not a setting, ignored", "name", v.Name)
	}
}
