// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/rpc/pb"
)

func newKeys(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys KEY...",
		Short: "Show which member owns a key",
		Long: `Show the partition of each key, the member that owns it and decides its calls, and
the member that would own it if the owner left (the heir). All keys with the same
first segment are in the same partition.

The owner is the one in the ring of the node that is asked. STATE is the role of the
owner by its own account: active (it decides), relay (it was the owner, and the
partition has moved in its ring), none, fenced (it decides nothing, because its heir has
not renewed its lease, or another node has its name), or unreachable if it does not
answer. TERM increases each time the partition gets a new owner.`,
		Example: `  bucketring keys acme/alice
  bucketring keys acme globex initech --server 127.0.0.1:6481
  bucketring keys acme -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(cmd, errors.New("missing argument KEY"), "")
			}
			return nil
		},
	}
	c := newAPICall(s)
	c.connectionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		query := url.Values{"key": args}
		return c.do(cmd, http.MethodGet, "/v1/owner?"+query.Encode(), nil, func(node *remoteService, _ *responseRecorder) {
			s.printLocations(node.locations)
		})
	}
	return cmd
}

// printLocations prints the owners of keys.
func (s *streams) printLocations(locations []*pb.Location) {
	row, flush := s.columns("KEY", "PARTITION", "OWNER", "HEIR", "STATE", "TERM")
	defer flush()
	for _, l := range locations {
		row(l.GetKey(), strconv.Itoa(int(l.GetPartition())), cmp.Or(l.GetOwner(), "-"), cmp.Or(l.GetHeir(), "-"), l.GetState(), strconv.FormatUint(l.GetTerm(), 10))
	}
}
