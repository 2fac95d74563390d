// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/tokenfile"
	"github.com/bucketring/bucketring/rpc/httpapi"
)

// forgetPause is the time between two calls while the members have not agreed.
const forgetPause = time.Second

func newForget(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget MEMBER",
		Short: "Stop counting a member that will not come back",
		Long: `Stop counting the vote of a member that will not come back, such as one whose machine
is lost for good. A majority of the members must answer for exact decisions, and
without this command a silent member counts for 10 minutes, or for ever while there is
no majority. Use it before you take another node away, or lose it. If the member is
started again later, it joins again.

It is refused while the member answers pings or one of its ports accepts connections:
stop it first. The others vote at once if its ports refuse connections, because the
process has ended. Otherwise they vote once it has not answered any of them for a
minute, after which it cannot decide any more. The command waits for that. To repeat it
changes nothing.

--force is for a cluster that has lost its majority, such as one of two members that has
lost one: where votes cannot be had, the node that is asked decides alone. The risk: if
the member, or a majority, runs somewhere out of reach of that node, two members decide
for the same keys until they see each other again, and each admits up to the whole
limit. Make sure that the member has ended. Give all such commands to the same node, one
after the other. Where a majority answers, --force changes nothing.

Exits with 1 if it is refused, or the members have not agreed within --timeout. They go
on then: repeat the command to see the result.`,
		Example: `  bucketring forget node-3
  bucketring forget node-2 --force --http 127.0.0.1:6470
  bucketring forget node-3 -o json`,
		Args: exactArgs("MEMBER"),
	}
	flags := cmd.Flags()
	address := flags.String("http", "", "address of the node's HTTP API (default $BUCKETRING_HTTP or "+defaultHTTP+")")
	timeout := flags.Duration("timeout", 90*time.Second, "time to wait until the members agree")
	force := flags.Bool("force", false, "decide without votes if there is no majority; if the member still runs, limits may be exceeded")
	var token tokenFlag
	token.declare(flags)
	secure := newCallerTLS(s, cmd)
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		target, err := secure.httpNode(cmd, s.flagOrEnv(*address, "BUCKETRING_HTTP", defaultHTTP))
		if err != nil {
			return err
		}
		credentials, err := token.source(cmd, s)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *timeout)
		defer cancel()
		answer, text, err := forget(ctx, target, args[0], *force, credentials)
		for told := false; err == nil && !answer.Forgotten; answer, text, err = forget(ctx, target, args[0], *force, credentials) {
			if !told {
				s.notef("waiting: %s\n", answer.Message)
				told = true
			}
			last := answer.Message
			select {
			case <-ctx.Done():
			case <-time.After(forgetPause):
			}
			if ctx.Err() != nil {
				return errorWithHint(errors.New(last), "the same command again: the node goes on asking")
			}
		}
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return s.indentJSON(text)
		}
		s.printf("%s\n", answer.Message)
		return nil
	}
	return cmd
}

// forget asks a node to forget a member. It returns the answer, also as JSON.
func forget(ctx context.Context, node *httpNode, member string, force bool, token *tokenfile.Source) (answer httpapi.Forgotten, text []byte, err error) {
	target := node.target
	body, err := json.Marshal(map[string]any{"member": member, "force": force})
	if err != nil {
		return answer, nil, fmt.Errorf("encode request: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, node.base+"/v1/forget", bytes.NewReader(body))
	if err != nil {
		return answer, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if err := setToken(r, token); err != nil {
		return answer, nil, err
	}
	resp, err := node.client.Do(r)
	if err != nil {
		return answer, nil, unanswered(target, node.usesTLS(), err)
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return answer, nil, errorWithHint(fmt.Errorf("%s: read the answer: %w", target, err), "")
	}
	if err := refusedError(target, resp, text); err != nil {
		return answer, nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		err := problemOf(target, resp, text, notHTTP+" of the same version")
		if e, ok := errors.AsType[*commandError](err); ok && strings.Contains(err.Error(), "votes") {
			e.hint = "bucketring forget --help, for what --force risks"
		}
		return answer, nil, err
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, nil, errorWithHint(fmt.Errorf("%s: read the answer: %w", target, err), notHTTP+" of the same version")
	}
	return answer, text, nil
}
