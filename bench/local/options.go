// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// maxNodes is more than one machine can usefully run.
const maxNodes = 100

// Options configure a [Cluster].
type Options struct {
	// Nodes is the number of nodes, 1 to 100. They are named bench-1, bench-2 and so on.
	Nodes int
	// Binary is the bucketring executable. Empty means this executable.
	Binary string
	// Policy is a policy file or directory. PolicyText is the text of a policy instead.
	// If both are empty, nodes use the built-in policy.
	Policy, PolicyText string
	// Dir is the directory of the logs, to which nodes append, and of their data. Empty
	// means a new temporary directory, which Stop removes.
	Dir string
	// Persist makes each node save its usage below Dir and load it after a restart.
	Persist bool
	// RESP makes each node listen for the protocol of Redis, too; see [Node].
	RESP bool
	// BareServers is the number of processes that are started beside the nodes, and do
	// nothing but refuse calls over gRPC; see [Cluster.BareAddrs].
	BareServers int
	// ExtraArgs are arguments for each node. They override those of this package.
	ExtraArgs []string
	// Env is added to the environment of each node. Nodes inherit the environment of
	// this process, except bucketring's variables.
	Env []string
	// Network gives each node a network namespace of its own, so that the network between
	// them can be cut. Nil means that all nodes listen on loopback.
	Network *Network
	// StartTimeout is the time for the nodes to agree on one ring, and for the start of
	// each later node. 0 means 30 s.
	StartTimeout time.Duration
	// StopTimeout is how long Stop waits before it kills nodes. They rarely need more
	// than a second, and at most six without calls in flight. 0 means 10 s.
	StopTimeout time.Duration
	// Log, if not nil, is called with a line of text for each event, one at a time. It
	// must not call Stop.
	Log func(text string)

	pickPorts func() (ports, error) // nil means freePorts
}

func (o Options) withDefaults() (Options, error) {
	if o.StartTimeout == 0 {
		o.StartTimeout = 30 * time.Second
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	if o.pickPorts == nil {
		o.pickPorts = freePorts
	}
	var err error
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return o, fmt.Errorf("find this executable: %w", err)
		}
	}
	if o.Dir != "" {
		o.Dir, err = filepath.Abs(o.Dir)
	}
	return o, err
}

// Validate returns all problems, joined.
func (o Options) Validate() error {
	var problems []error
	if o.Nodes < 1 || o.Nodes > maxNodes {
		problems = append(problems, fmt.Errorf("nodes: must be 1 to %d, got %d", maxNodes, o.Nodes))
	}
	if o.BareServers < 0 || o.BareServers > maxNodes {
		problems = append(problems, fmt.Errorf("bare_servers: must be 0 to %d, got %d", maxNodes, o.BareServers))
	}
	if o.Policy != "" && o.PolicyText != "" {
		problems = append(problems, errors.New("policy: must not be both a path and a text"))
	}
	if o.StartTimeout < 0 {
		problems = append(problems, fmt.Errorf("start_timeout: must not be negative, got %s", o.StartTimeout))
	}
	if o.StopTimeout < 0 {
		problems = append(problems, fmt.Errorf("stop_timeout: must not be negative, got %s", o.StopTimeout))
	}
	if o.Network != nil && o.Nodes > o.Network.nodes {
		problems = append(problems, fmt.Errorf("nodes: the network has namespaces for %d nodes, got %d", o.Network.nodes, o.Nodes))
	}
	return errors.Join(problems...)
}

// portsOf returns where the n-th node listens.
func (o *Options) portsOf(n int) (ports, error) {
	if o.Network == nil {
		return o.pickPorts()
	}
	if n > o.Network.nodes {
		return ports{}, fmt.Errorf("%s: the network has namespaces for %d nodes", nameOf(n), o.Network.nodes)
	}
	return ports{o.Network.host(n), 6470, 6471, 6472, 6479}, nil
}

// prepare creates the directory and writes the policy into it. It returns a function
// that removes the directory if it is temporary.
func (o *Options) prepare() (remove func() error, err error) {
	remove = func() error { return nil }
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "bucketring-bench-"); err != nil {
			return remove, fmt.Errorf("create a directory for the nodes: %w", err)
		}
		dir := o.Dir
		remove = func() error { return os.RemoveAll(dir) }
	} else if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return remove, fmt.Errorf("create a directory for the nodes: %w", err)
	}
	if o.PolicyText != "" {
		o.Policy = filepath.Join(o.Dir, "policy.yaml")
		if err := os.WriteFile(o.Policy, []byte(o.PolicyText), 0o600); err != nil {
			return remove, errors.Join(fmt.Errorf("write the policy: %w", err), remove())
		}
	}
	return remove, nil
}
