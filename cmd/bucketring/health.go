// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// defaultHTTP is the default HTTP address of a node.
const defaultHTTP = "127.0.0.1:6470"

func newHealth(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Check whether a node is alive or ready",
		Long: `Check over HTTP whether a node is alive or, with --ready, whether it accepts calls.
With --safe, check whether the cluster could lose any one node now without losing a
charge: rollouts wait for that before they restart the next node.
Exits with 4 if not, at once or, with --wait, when that time is over. The command needs
no shell and no curl, so a container can use it as its health check, and Kubernetes as
a preStop hook.`,
		Example: `  bucketring health
  bucketring health --ready --http 127.0.0.1:6470 --timeout 1s
  bucketring health --safe --wait 2m`,
		Args: exactArgs(),
	}
	flags := cmd.Flags()
	address := flags.String("http", "", "address of the node's HTTP API (default $BUCKETRING_HTTP or "+defaultHTTP+")")
	ready := flags.Bool("ready", false, "check whether the node is ready, not only alive")
	safe := flags.Bool("safe", false, "check whether any one node may be restarted or lost now")
	timeout := flags.Duration("timeout", 2*time.Second, "time to wait for the answer")
	wait := flags.Duration("wait", 0, "time to ask again until the answer is yes; 0 means to ask once")
	secure := newCallerTLS(s, cmd)
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *wait < 0 {
			return usageError(cmd, fmt.Errorf("--wait: must not be negative, got %s", *wait), "")
		}
		node, err := secure.httpNode(cmd, s.flagOrEnv(*address, "BUCKETRING_HTTP", defaultHTTP))
		if err != nil {
			return err
		}
		path := "/livez"
		switch {
		case *ready && *safe:
			return usageError(cmd, errors.New("--ready, --safe: give one of them"), "")
		case *ready:
			path = "/readyz?verbose"
		case *safe:
			path = "/safez?verbose"
		}
		answer := await(cmd.Context(), *wait, func() health { return probe(node, path, *timeout) })
		if *output == formatJSON {
			if err := s.writeJSON(answer); err != nil {
				return err
			}
		} else if e, ok := errors.AsType[*commandError](answer.err); ok {
			return &commandError{code: exitUnhealthy, cause: e.cause, hint: e.hint}
		} else {
			s.printf("%s\n", answer.Message)
		}
		if !answer.Healthy {
			return &commandError{code: exitUnhealthy}
		}
		return nil
	}
	return cmd
}

type health struct {
	Healthy bool   `json:"healthy"`
	Message string `json:"message"`
	err     error  // why the node did not answer, with a hint; nil: it answered
}

// healthPoll is the time between two questions of health --wait.
const healthPoll = 500 * time.Millisecond

// await asks until the answer is yes, the time is over or the context ends. It returns the
// last answer.
func await(ctx context.Context, within time.Duration, ask func() health) health {
	over := time.Now().Add(within)
	for {
		answer := ask()
		if answer.Healthy || !time.Now().Add(healthPoll).Before(over) {
			return answer
		}
		select {
		case <-ctx.Done():
			return answer
		case <-time.After(healthPoll):
		}
	}
}

func probe(node *httpNode, path string, timeout time.Duration) health {
	node.client.Timeout = timeout
	resp, err := node.client.Get(node.base + path)
	if err != nil {
		err = unanswered(node.target, node.usesTLS(), err)
		return health{Message: err.Error(), err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return health{Message: err.Error()}
	}
	return health{Healthy: resp.StatusCode == http.StatusOK, Message: strings.TrimSpace(string(text))}
}

// dialAddress turns an address that a node listens on into one to dial: an
// unspecified host becomes localhost.
func dialAddress(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("must be host:port, got %q", address)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), nil
}

// flagOrEnv returns the value of the flag, else of the environment variable, else the
// default.
func (s *streams) flagOrEnv(flag, env, def string) string {
	if flag != "" {
		return flag
	}
	if v, ok := s.lookupEnv(env); ok && v != "" {
		return v
	}
	return def
}
