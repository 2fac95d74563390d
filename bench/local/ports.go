// SPDX-License-Identifier: Apache-2.0

package local

import (
	"net"
	"strconv"

	"github.com/bucketring/bucketring/internal/freeport"
)

// ports are where a node listens. They do not change when it is restarted, so that
// others find it again.
type ports struct {
	host                     string // empty means loopback
	http, grpc, gossip, resp int
}

func (p ports) address(port int) string {
	if p.host == "" {
		return freeport.Address(port)
	}
	return net.JoinHostPort(p.host, strconv.Itoa(port))
}

// freePorts returns ports that were free when it looked, and that it has not
// returned before.
func freePorts() (p ports, err error) {
	for _, port := range []*int{&p.http, &p.grpc, &p.gossip, &p.resp} {
		if *port, err = freeport.Pick(); err != nil {
			return p, err
		}
	}
	return p, nil
}
