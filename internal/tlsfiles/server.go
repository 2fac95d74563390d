// SPDX-License-Identifier: Apache-2.0

package tlsfiles

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// handshakeTimeout is the time that the other side has from its connection to the end
	// of the handshake.
	handshakeTimeout = 10 * time.Second
	// minLogInterval is the least time between two lines about refused connections of a
	// listener.
	minLogInterval = time.Minute
	// recordHandshake is the first byte of a connection with TLS. No method of HTTP, and
	// not the preface of HTTP/2, begins with it.
	recordHandshake = 0x16
)

// Results of the beginning of a connection, as labels.
const (
	resultTLS       = "tls"
	resultPlaintext = "plaintext" // admitted, where TLS is optional
	resultNoTLS     = "no_tls"    // refused: plaintext where TLS is required
	resultRefused   = "refused"   // the handshake failed
	resultSilent    = "silent"    // nothing came in time, or the other side went away
)

// Metrics counts the connections of listeners.
type Metrics struct{ handshakes *prometheus.CounterVec }

// NewMetrics registers the metrics of connections.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_tls_handshakes_total",
		Help: "Connections to listeners with TLS, by listener and result: tls, plaintext (where TLS is optional), no_tls (plaintext, refused), refused, silent.",
	}, []string{"listener", "result"})}
}

// ServerOptions configure a listener with TLS.
type ServerOptions struct {
	// Name of the listener, in the log and in metrics.
	Name string
	// Optional: plaintext is admitted, too.
	Optional bool
	// ClientAuth says whether callers must have certificates.
	ClientAuth tls.ClientAuthType
	// NextProtos are the protocols to agree on.
	NextProtos []string
	// Verify returns an error for callers that are refused, after their certificates were
	// verified. Nil: none is.
	Verify func(tls.ConnectionState) error
	// Refusal tells a caller without TLS that it needs TLS, where [Store.Listener] refuses it.
	// Default: an answer of HTTP.
	Refusal string
	Metrics *Metrics     // nil: none
	Logger  *slog.Logger // nil: no log
}

// acceptor begins connections.
type acceptor struct {
	store   *Store
	options ServerOptions
	config  *tls.Config
	counts  map[string]prometheus.Counter
	nextLog atomic.Int64 // Unix nanoseconds
}

func (s *Store) newAcceptor(o ServerOptions) *acceptor {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &acceptor{store: s, options: o, counts: map[string]prometheus.Counter{}}
	if o.Metrics != nil {
		for _, result := range []string{resultTLS, resultPlaintext, resultNoTLS, resultRefused, resultSilent} {
			a.counts[result] = o.Metrics.handshakes.WithLabelValues(o.Name, result)
		}
	}
	a.config = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: o.NextProtos, GetConfigForClient: a.configFor}
	return a
}

// configFor returns the configuration of one connection. There are no session tickets: a
// session would survive the removal of a CA.
func (a *acceptor) configFor(*tls.ClientHelloInfo) (*tls.Config, error) {
	m := a.store.load()
	if m.cert == nil {
		return nil, errors.New("there is no certificate")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: a.options.NextProtos, Certificates: []tls.Certificate{*m.cert},
		ClientCAs: m.pool, ClientAuth: a.options.ClientAuth, VerifyConnection: a.options.Verify, SessionTicketsDisabled: true,
	}, nil
}

// errPlaintext is why a connection without TLS is refused.
var errPlaintext = errors.New("the connection does not use TLS, which is required here; use TLS, or https:// for HTTP")

// begin reads the first byte of a connection. It returns whether TLS begins there, and a
// connection from which the byte can be read again.
func (a *acceptor) begin(c net.Conn) (secure bool, again net.Conn, err error) {
	p := &peeked{Conn: c}
	if err := c.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return false, nil, err
	}
	if _, err := io.ReadFull(c, p.first[:]); err != nil {
		return false, nil, err
	}
	p.unread = true
	secure = p.first[0] == recordHandshake
	if !secure && !a.options.Optional {
		return false, p, errPlaintext
	}
	return secure, p, nil
}

// ended counts how a connection has begun, and logs why one is refused, now and then.
func (a *acceptor) ended(c net.Conn, secure bool, err error) {
	result := resultPlaintext
	switch {
	case errors.Is(err, errPlaintext):
		result = resultNoTLS
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		result = resultSilent
	case err != nil:
		result = resultRefused
	case secure:
		result = resultTLS
	}
	if n := a.counts[result]; n != nil {
		n.Inc()
	}
	if result != resultNoTLS && result != resultRefused {
		return
	}
	now := time.Now()
	if at := a.nextLog.Load(); now.UnixNano() >= at && a.nextLog.CompareAndSwap(at, now.Add(minLogInterval).UnixNano()) {
		a.options.Logger.Warn("connection refused", "listener", a.options.Name, "remote", c.RemoteAddr().String(), "error", explained(err))
	}
}

// peeked is a connection whose first byte was read.
type peeked struct {
	net.Conn
	first  [1]byte
	unread bool // used by one goroutine
}

// Read implements net.Conn.
func (p *peeked) Read(b []byte) (int, error) {
	if p.unread && len(b) > 0 {
		p.unread = false
		b[0] = p.first[0]
		return 1, nil
	}
	return p.Conn.Read(b)
}

// Credentials are for a gRPC server. Callers with TLS have [credentials.TLSInfo], whose
// chains are verified if they gave a certificate. gRPC makes each handshake in a
// goroutine of its own.
func (s *Store) Credentials(o ServerOptions) credentials.TransportCredentials {
	o.NextProtos = []string{"h2"}
	a := s.newAcceptor(o)
	return &serverCredentials{acceptor: a, tls: credentials.NewTLS(a.config), plain: insecure.NewCredentials()}
}

type serverCredentials struct {
	acceptor   *acceptor
	tls, plain credentials.TransportCredentials
}

var _ credentials.TransportCredentials = (*serverCredentials)(nil)

// ServerHandshake implements credentials.TransportCredentials.
func (s *serverCredentials) ServerHandshake(c net.Conn) (conn net.Conn, info credentials.AuthInfo, err error) {
	secure, again, err := s.acceptor.begin(c)
	if err == nil {
		handshake := s.plain
		if secure {
			handshake = s.tls
		}
		conn, info, err = handshake.ServerHandshake(again)
	}
	s.acceptor.ended(c, secure, err)
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return conn, info, nil // gRPC clears the deadline
}

// ClientHandshake implements credentials.TransportCredentials.
func (s *serverCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fmt.Errorf("these credentials are for the server %s", s.acceptor.options.Name)
}

// Info implements credentials.TransportCredentials.
func (s *serverCredentials) Info() credentials.ProtocolInfo { return s.tls.Info() }

// Clone implements credentials.TransportCredentials.
func (s *serverCredentials) Clone() credentials.TransportCredentials { return s }

// OverrideServerName implements credentials.TransportCredentials.
func (s *serverCredentials) OverrideServerName(string) error { return nil }
