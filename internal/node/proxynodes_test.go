// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/tlsfiles"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client"
)

// TestProxySaysWhyNodesRefuse connects a proxy that runs alone, and the client library, to a
// node with certificates that one side refuses: the errors and the log have the reason and
// what to do.
func TestProxySaysWhyNodesRefuse(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	n := startWith(t, func(c *config.Config) {
		c.Name = "n1"
		ours.settings("required", "require")(0, c)
	}, nil)
	good, stranger := ours.store("proxy", false), theirs.store("proxy", false)
	mixed := tlsfiles.Files{CA: ours.ca, Cert: theirs.files("proxy", false).Cert, Key: theirs.files("proxy", false).Key}
	refused, err := tlsfiles.Open(tlsfiles.Options{Files: mixed, Name: "mixed"})
	if err != nil {
		t.Fatal(err)
	}
	settings := config.DefaultStandalone().Proxy
	settings.Upstream, settings.Identity = "http://127.0.0.1:1", "bearer"
	// A node that refuses a certificate may close the connection before its alert is read.
	closed := []string{"broken pipe", "connection reset", "EOF"}
	for name, tt := range map[string]refusedNodes{
		"the caller refuses the node":                  {stranger.ServerCredentials("localhost"), []string{"certificate signed by unknown authority"}, "the CA file must have the CA"},
		"the library refuses the node":                 {credentials.NewTLS(&tls.Config{ServerName: "localhost", MinVersion: tls.VersionTLS12}), []string{"certificate signed by unknown authority"}, "the CA file must have the CA"},
		"another name":                                 {good.ServerCredentials("n9"), []string{"not n9"}, "the certificate must have the name"},
		"the node refuses the caller":                  {refused.ServerCredentials("localhost"), append(closed, "unknown certificate authority"), ""},
		"the node refuses callers without certificate": {credentials.NewTLS(without(good.Client("localhost"))), append(closed, "certificate required"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var lines log
			p, err := NewProxy(settings, ProxyOptions{
				Policy: func() *policy.Policy { return n.policies.Current() }, Logger: slog.New(slog.NewTextHandler(&lines, nil)), Registry: prometheus.NewRegistry(),
				Nodes: client.Options{Addrs: []string{n.GRPCAddr()}, Credentials: tt.credentials},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
			defer cancel()
			_, err = p.Client().Check(ctx, client.Call{Key: "acme/alice", Tier: "free"})
			if !errors.Is(err, client.ErrUnreachable) {
				t.Fatalf("Check() = %v, want ErrUnreachable", err)
			}
			tt.wantIn(t, "the error of the library", err.Error())
			waittest.Until(t, "a reason", func() bool { return p.Client().Status().Source != "" })
			tt.wantIn(t, "the error of the proxy", p.NodesAnswer().Error())
			watching := make(chan error, 1)
			go func() { watching <- p.WatchNodes(ctx) }()
			waittest.Until(t, "a line", func() bool { return strings.Contains(lines.String(), "no node of the cluster answers") })
			tt.wantIn(t, "the log", lines.String())
			cancel()
			if err := <-watching; err != nil {
				t.Error(err)
			}
		})
	}
}

type refusedNodes struct {
	credentials credentials.TransportCredentials
	reason      []string // one of them
	hint        string   // "": what goes with the reason
}

func (r refusedNodes) wantIn(t *testing.T, what, text string) {
	t.Helper()
	for _, reason := range r.reason {
		if strings.Contains(text, reason) {
			if hint := r.hint; !strings.Contains(text, hint) || hint == "" && strings.Contains(reason, "certificate") && !strings.Contains(text, "certificate of its CA") && !strings.Contains(text, "give one, with its key") {
				t.Errorf("%s is %q, want a hint", what, text)
			}
			return
		}
	}
	t.Errorf("%s is %q, want one of %q", what, text, r.reason)
}
