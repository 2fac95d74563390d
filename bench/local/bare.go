// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/bucketring/bucketring/internal/freeport"
)

// bareCommand is the command of the binary that serves a bare server at an address.
var bareCommand = []string{"bench", "bare"}

// bareServer is a process beside the nodes.
type bareServer struct {
	*child
	address string
}

// BareAddrs returns the gRPC addresses of the bare servers. They begin to answer soon after
// [Start] has returned, and end with the cluster.
func (c *Cluster) BareAddrs() []string {
	var addresses []string
	for _, b := range c.bare {
		addresses = append(addresses, b.address)
	}
	return addresses
}

// startBare starts the bare servers. stopBare ends those that have started, also after an
// error.
func (c *Cluster) startBare() error {
	for i := range c.o.BareServers {
		port, err := freeport.Pick()
		if err != nil {
			return err
		}
		address := freeport.Address(port)
		p, err := c.startBeside(fmt.Sprintf("bare-%d", i+1), append(slices.Clone(bareCommand), address))
		if err != nil {
			return err
		}
		c.bare = append(c.bare, bareServer{p, address})
	}
	return nil
}

func (c *Cluster) stopBare() {
	for _, b := range c.bare {
		b.kill()
	}
}

// startBeside starts a process that is not a node. The caller must kill it.
func (c *Cluster) startBeside(name string, args []string) (*child, error) {
	cmd := exec.Command(c.o.Binary, args...)
	cmd.Env = environment(c.o.Env)
	return spawn(cmd, filepath.Join(c.o.Dir, name+".log"), func(*child) {})
}
