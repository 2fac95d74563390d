// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// ports are where a node listens on loopback. They do not change when it is restarted,
// so that others find it again.
type ports struct{ http, grpc, gossip int }

// Ports are below the ephemeral ranges of common systems, so that an outgoing
// connection cannot get the port of a node that is down.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

// freePorts returns three ports that were free when it looked.
func freePorts() (p ports, err error) {
	for _, port := range []*int{&p.http, &p.grpc, &p.gossip} {
		for {
			if *port, err = freePort(); err != nil {
				return p, err
			}
			if port != &p.http && *port == p.http || port == &p.gossip && *port == p.grpc {
				continue
			}
			break
		}
	}
	return p, nil
}

func freePort() (int, error) {
	for range 1000 {
		if port := firstPort + rand.IntN(lastPort-firstPort); isFree(port) {
			return port, nil
		}
	}
	return 0, errors.New("no port is free on loopback between " + strconv.Itoa(firstPort) + " and " + strconv.Itoa(lastPort))
}

// isFree reports whether a port is free for TCP and UDP. Gossip needs both.
func isFree(port int) bool {
	tcp, err := net.Listen("tcp", address(port))
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", address(port))
	if err != nil {
		return false
	}
	return udp.Close() == nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
