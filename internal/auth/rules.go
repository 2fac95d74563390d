// SPDX-License-Identifier: Apache-2.0

package auth

import "strings"

// rule is what a method or a path needs.
type rule struct {
	scopes   Scope // one of them
	open     bool  // no credentials
	peer     bool  // those of members, which the service checks
	allRoots bool  // a caller with roots may not use it
}

// The rules. What is in no table needs the scope admin.
var (
	needsAdmin   = rule{scopes: Admin}
	needsRead    = rule{scopes: Read}
	needsCall    = rule{scopes: Call}
	needsAllCall = rule{scopes: Call, allRoots: true}
	lookUp       = rule{scopes: Call | Read}
	anybody      = rule{open: true}
)

// grpcRules are the rules of methods.
var grpcRules = map[string]rule{
	"/bucketring.v1.RateLimiter/Check":    needsCall,
	"/bucketring.v1.RateLimiter/Reserve":  needsCall,
	"/bucketring.v1.RateLimiter/Settle":   needsCall,
	"/bucketring.v1.RateLimiter/Cancel":   needsCall,
	"/bucketring.v1.RateLimiter/Batch":    needsCall,
	"/bucketring.v1.RateLimiter/Exchange": needsCall,
	"/bucketring.v1.RateLimiter/Wait":     needsCall,
	"/bucketring.v1.RateLimiter/Peek":     lookUp,
	"/bucketring.v1.RateLimiter/Watch":    lookUp,
	"/bucketring.v1.RateLimiter/Locate":   lookUp,
	"/bucketring.v1.RateLimiter/HotKeys":  needsRead,

	"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit": needsAllCall,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": {scopes: anyScope},
}

// Prefixes of methods: health is open, and members prove who they are by the cluster key.
const (
	healthService = "/grpc.health.v1.Health/"
	peerService   = "/bucketring.v1.Peer/"
)

func grpcRule(method string) rule {
	if r, listed := grpcRules[method]; listed {
		return r
	}
	switch {
	case strings.HasPrefix(method, healthService):
		return anybody
	case strings.HasPrefix(method, peerService):
		return rule{peer: true}
	}
	return needsAdmin
}

// httpRules are the rules of paths.
var httpRules = map[string]rule{
	"/v1/check":          needsCall,
	"/v1/reserve":        needsCall,
	"/v1/settle":         needsCall,
	"/v1/cancel":         needsCall,
	"/v1/limits":         lookUp,
	"/v1/owner":          lookUp,
	"/v1/hotkeys":        needsRead,
	"/v1/forget":         needsAdmin,
	"/":                  anybody, // leads browsers to /status
	"/status":            needsRead,
	"/status/partitions": needsRead,
	"/metrics":           {scopes: Metrics | Read},
	"/livez":             anybody,
	"/healthz":           anybody,
	"/readyz":            anybody,
	"/safez":             anybody,

	// Envoy's.
	"/healthcheck": anybody,
	"/json":        needsAllCall,
	"/rlconfig":    needsRead,
}

func httpRule(path string) rule {
	if r, listed := httpRules[path]; listed {
		return r
	}
	return needsAdmin
}
