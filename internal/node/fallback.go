// SPDX-License-Identifier: Apache-2.0

package node

import (
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/fallback"
	"github.com/bucketring/bucketring/rpc/server"
)

// standInShare of the keys and ids of the engine have room in the one that
// stands in for owners: it keeps what was used while they were away, and no
// longer.
const standInShare = 16

// newFallback makes the service that decides when an owner cannot be reached,
// from memory of its own.
func (n *Node) newFallback(local *server.Service) *server.Service {
	c, catalog := n.config, limiter.NewCatalog()
	share := func(limit int) int { return max(1, limit/standInShare) }
	n.standIn = limiter.New(limiter.Options{
		Catalog: catalog, MaxKeys: share(c.MaxKeys), MaxKeysPerRoot: share(c.MaxKeysPerRoot), MaxIDs: share(c.MaxIDs),
	})
	plans := fallback.New(catalog)
	return local.Fallback(n.standIn, func() server.Policy {
		return plans.Policy(n.policies.Current(), n.router.Roster())
	})
}
