// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/tls"
	"log/slog"
	"net"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/tlsfiles"
)

// SecureHTTP returns a listener with the TLS of settings for a server of HTTP, or l if
// files is nil. name is that of the listener in metrics.
func SecureHTTP(files *tlsfiles.Store, l net.Listener, m *tlsfiles.Metrics, c config.TLS, name string, auth tls.ClientAuthType, log *slog.Logger) net.Listener {
	if files == nil {
		return l
	}
	return files.Listener(l, tlsfiles.ServerOptions{
		Name: name, Optional: !c.Required(), ClientAuth: auth, NextProtos: []string{"h2", "http/1.1"}, Metrics: m, Logger: log,
	})
}
