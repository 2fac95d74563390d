// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// maxNodes is more than one machine is good for.
const maxNodes = 100

// Options configure a [Cluster].
type Options struct {
	// Nodes is how many are started, 1 to 100: bench-1, bench-2 and so on.
	Nodes int
	// Binary is the bucketring that is run. Empty: this executable.
	Binary string
	// Policy is the policy file or directory, and PolicyText its content instead.
	// Neither: the policy that is built in.
	Policy, PolicyText string
	// Dir gets a log of each node, which is appended to, and what else they keep.
	// Empty: a new temporary directory, which Stop removes.
	Dir string
	// Data: each node keeps its usage below Dir and finds it again when it is
	// restarted. If not, it forgets.
	Data bool
	// ExtraArgs go to each node after all others, and win over them.
	ExtraArgs []string
	// Env is added to the environment of each node. It has that of this process,
	// without the settings of bucketring, so that only flags count.
	Env []string
	// StartTimeout bounds how long the nodes may take until they are one ring, and
	// each one that starts later. 0: 30 s.
	StartTimeout time.Duration
	// Grace is how long Stop lets them end by themselves. They rarely need a second,
	// and at most six when no calls are in progress. 0: 10 s.
	Grace time.Duration
	// Log gets a line of text for each thing that happens, one at a time. It must
	// not call Stop. Nil: nobody wants to know.
	Log func(text string)

	pick func() (ports, error) // nil: freePorts
}

func (o Options) withDefaults() (Options, error) {
	if o.StartTimeout == 0 {
		o.StartTimeout = 30 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	if o.pick == nil {
		o.pick = freePorts
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

// Validate returns every problem.
func (o Options) Validate() error {
	var problems []error
	if o.Nodes < 1 || o.Nodes > maxNodes {
		problems = append(problems, fmt.Errorf("nodes: must be 1 to %d, got %d", maxNodes, o.Nodes))
	}
	if o.Policy != "" && o.PolicyText != "" {
		problems = append(problems, errors.New("policy: give a path or a text, not both"))
	}
	if o.StartTimeout < 0 {
		problems = append(problems, fmt.Errorf("start timeout: must not be negative, got %s", o.StartTimeout))
	}
	if o.Grace < 0 {
		problems = append(problems, fmt.Errorf("grace: must not be negative, got %s", o.Grace))
	}
	return errors.Join(problems...)
}

// prepare makes the directory, and writes into it what the nodes read. It
// returns what removes a directory that nobody asked for.
func (o *Options) prepare() (remove func() error, err error) {
	remove = func() error { return nil }
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "bucketring-bench-"); err != nil {
			return remove, fmt.Errorf("make a directory for the nodes: %w", err)
		}
		dir := o.Dir
		remove = func() error { return os.RemoveAll(dir) }
	} else if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return remove, fmt.Errorf("make a directory for the nodes: %w", err)
	}
	if o.PolicyText != "" {
		o.Policy = filepath.Join(o.Dir, "policy.yaml")
		if err := os.WriteFile(o.Policy, []byte(o.PolicyText), 0o600); err != nil {
			return remove, errors.Join(fmt.Errorf("write the policy: %w", err), remove())
		}
	}
	return remove, nil
}
