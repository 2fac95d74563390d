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
		Short: "Show which member decides for keys",
		Long: `Show which partition each key is in, which member owns it and so decides, and
which one would own it if that member went (the heir). All keys with the same
first segment are in one partition.

The owner is that of the ring of the node asked. STATE is what the owner says that
it is for the partition: active (it decides), relay (it did, and by its own ring
the partition has moved), none, fenced (another node has its name, so it decides
nothing), or unreachable, if it does not say. TERM grows each time that the
partition gets another owner.`,
		Example: `  bucketring keys acme/alice
  bucketring keys acme globex initech --server 127.0.0.1:6481
  bucketring keys acme -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misused(cmd, errors.New("missing argument KEY"), "")
			}
			return nil
		},
	}
	c := newCaller(s)
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		query := url.Values{"key": args}
		return c.send(cmd, http.MethodGet, "/v1/owner?"+query.Encode(), nil, func(node *forward, _ *recorder) {
			s.locations(node.locations)
		})
	}
	return cmd
}

// locations prints who owns keys.
func (s *streams) locations(locations []*pb.Location) {
	row, flush := s.columns("KEY", "PARTITION", "OWNER", "HEIR", "STATE", "TERM")
	defer flush()
	for _, l := range locations {
		row(l.GetKey(), strconv.Itoa(int(l.GetPartition())), cmp.Or(l.GetOwner(), "-"), cmp.Or(l.GetHeir(), "-"), l.GetState(), strconv.FormatUint(l.GetTerm(), 10))
	}
}
