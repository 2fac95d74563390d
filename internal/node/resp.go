// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/bucketring/bucketring/internal/buildinfo"
	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/tlsfiles"
	"github.com/bucketring/bucketring/rpc/resp"
)

// openRESP listens for the Redis protocol, if it is configured.
func (n *Node) openRESP() (err error) {
	if n.config.RESP == "" {
		return nil
	}
	if n.respListener, err = n.listen("resp", n.config.RESP, nil, listenlimit.RESPRefusal()); err != nil {
		return fmt.Errorf("listen for the Redis protocol: %w", err)
	}
	n.resp = resp.New(resp.Options{
		Decider: n.router, Version: buildinfo.Read().Version,
		Access: n.access, Admission: n.admission, Rejections: n.rejections, Logger: n.log,
	})
	return nil
}

// secureRESP returns the listener of the Redis protocol, with TLS if it is on.
func (n *Node) secureRESP() net.Listener {
	if n.tls.files == nil {
		return n.respListener
	}
	return n.tls.files.Listener(n.respListener, tlsfiles.ServerOptions{
		Name: "resp", Optional: !n.config.TLS.Required(), ClientAuth: callers(n.config.TLS.ClientAuth), Metrics: n.tls.metrics, Logger: n.log,
		Refusal: "-ERR this address needs TLS: connect with it, by redis-cli with --tls\r\n",
	})
}

// stopRESP answers what was read of each connection, and closes it.
func (n *Node) stopRESP(ctx context.Context) error {
	if n.resp == nil {
		return nil
	}
	if err := n.resp.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		n.log.Warn("calls of the Redis protocol cancelled after the shutdown timeout", "timeout", n.config.ShutdownTimeout)
	} else if err != nil {
		return fmt.Errorf("stop the Redis protocol: %w", err)
	}
	return nil
}

// RESPAddr returns the address of the Redis protocol with its real port, or "" if it is off.
func (n *Node) RESPAddr() string {
	if n.respListener == nil {
		return ""
	}
	return n.respListener.Addr().String()
}
