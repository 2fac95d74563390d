// SPDX-License-Identifier: Apache-2.0

package node

import (
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/fallback"
	"github.com/bucketring/bucketring/rpc/server"
)

// fallbackShare is the size of the engine relative to that of the fallback engine,
// which has only the usage of keys whose owner cannot be reached.
const fallbackShare = 16

// newFallback returns the service that decides when an owner cannot be reached. It
// has its own engine.
func (n *Node) newFallback(local *server.Service) *server.Service {
	c, catalog := n.config, limiter.NewCatalog()
	share := func(limit int) int { return min(limit, max(1, limit/fallbackShare)) } // 0 stays the default
	n.fallbackEngine = limiter.New(limiter.Options{
		Catalog: catalog, MaxKeys: share(c.MaxKeys), MaxKeysPerRoot: share(c.MaxKeysPerRoot), MaxIDs: share(c.MaxIDs),
	})
	plans := fallback.New(catalog)
	return local.Fallback(n.fallbackEngine, func() server.Policy {
		return plans.Policy(n.policies.Current(), n.router.Roster())
	})
}
