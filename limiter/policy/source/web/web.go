// SPDX-License-Identifier: Apache-2.0

// Package web reads a policy from an HTTP server: one URL has the text of one policy
// file.
//
// It asks with the ETag and the time of the last answer, so that an unchanged policy
// is neither sent nor read again. No error shows the credentials, the query or the
// fragment of the URL.
package web

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/pause"
	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// Options configure a [Feed].
type Options struct {
	// URL is https://..., or http://... of a loopback address.
	URL     string
	Catalog *limiter.Catalog // required
	// TokenFile has a bearer token. It is read for each request.
	TokenFile string
	// Files has the files for TLS.
	Files TLSFiles
	// Insecure allows http to any host.
	Insecure bool
	// Interval is the mean time between two requests. Default: 10 s.
	Interval time.Duration
	// Timeout is the time for one answer, with its body. Default: 30 s.
	Timeout time.Duration
}

// A Feed reads a policy from a URL. It is not safe for concurrent use.
type Feed struct {
	options   Options
	url       *url.URL
	name      string
	transport *http.Transport
	files     [sha256.Size]byte // of the files of transport
	last      answer
	maxBytes  int64 // of a body
}

// answer is what the server answered last, with status 200.
type answer struct {
	etag, modified string
	body           [sha256.Size]byte
	policy         *policy.Policy
	err            error // the problems of the policy
}

// New returns the feed of a URL, without a request.
func New(o Options) (*Feed, error) {
	if o.Interval <= 0 {
		o.Interval = 10 * time.Second
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, errors.New("policy: the URL cannot be parsed: write https://host/path") // the error would show it
	}
	f := &Feed{options: o, url: u, name: redacted(u), maxBytes: yamldoc.MaxFileBytes}
	switch {
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return nil, fmt.Errorf("policy: want https://host/path, got %s", f.name)
	case u.Scheme == "http" && !f.plaintextTo(u):
		return nil, fmt.Errorf("policy: %s is not encrypted, so anybody on the way can change limits: use https, or allow it with --insecure", f.name)
	case u.User != nil && o.TokenFile != "":
		return nil, fmt.Errorf("policy: %s has credentials, and there is a token file, too: use one of them", f.name)
	case u.Scheme == "http" && o.Files != (TLSFiles{}):
		return nil, fmt.Errorf("policy: %s does not use the files for TLS: use https, or leave them out", f.name)
	}
	return f, nil
}

// Name returns the URL without its credentials, query and fragment.
func (f *Feed) Name() string { return f.name }

// Close ends idle connections.
func (f *Feed) Close() {
	if f.transport != nil {
		f.transport.CloseIdleConnections()
	}
}

func redacted(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// plaintextTo reports whether http may be used to a host.
func (f *Feed) plaintextTo(u *url.URL) bool {
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	return f.options.Insecure || host == "localhost" || err == nil && addr.IsLoopback()
}

// Wait returns after an interval, 10 % shorter or longer at random.
func (f *Feed) Wait(ctx context.Context) {
	t := time.NewTimer(time.Duration((0.9 + 0.2*rand.Float64()) * float64(f.options.Interval)))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Load returns the policy at the URL: that of the last call if it is the same. With all
// set it reads the policy even if the server would say that it has not changed. The
// error is a [policy.Problems] if the policy is invalid; otherwise none was read.
func (f *Feed) Load(ctx context.Context, all bool) (*policy.Policy, error) {
	ctx, cancel := context.WithTimeout(ctx, f.options.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("GET %s: cannot make a request", f.name)
	}
	req.Header.Set("Accept", "application/yaml, text/yaml, text/plain;q=0.9, application/json;q=0.9, */*;q=0.1")
	if err := f.authorize(req); err != nil {
		return nil, err
	}
	known := !all && (f.last.policy != nil || f.last.err != nil)
	if known && f.last.etag != "" {
		req.Header.Set("If-None-Match", f.last.etag)
	}
	if known && f.last.modified != "" {
		req.Header.Set("If-Modified-Since", f.last.modified)
	}
	if err := f.renewTransport(); err != nil {
		return nil, fmt.Errorf("GET %s: %w", f.name, err)
	}
	client := &http.Client{Transport: f.transport, CheckRedirect: f.checkRedirect}
	resp, err := client.Do(req)
	if err != nil {
		return nil, f.noAnswer(ctx, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && known:
		return f.last.policy, f.last.err
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("GET %s: status %d%s", f.name, resp.StatusCode, f.advice(resp.StatusCode))
	}
	return f.read(ctx, resp)
}

// read parses the body of an answer.
func (f *Feed) read(ctx context.Context, resp *http.Response) (*policy.Policy, error) {
	if kind := resp.Header.Get("Content-Type"); !isText(kind) {
		return nil, fmt.Errorf("GET %s: the content type is %.100q, want application/yaml or text/plain: is it the page of a login or of a proxy?", f.name, kind)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, f.maxBytes+1))
	if err != nil {
		return nil, f.noAnswer(ctx, err)
	}
	if int64(len(text)) > f.maxBytes {
		return nil, fmt.Errorf("GET %s: the policy has more than %d bytes: use --policy postgres://", f.name, f.maxBytes)
	}
	now := answer{etag: resp.Header.Get("ETag"), modified: resp.Header.Get("Last-Modified"), body: sha256.Sum256(text)}
	if now.body == f.last.body && (f.last.policy != nil || f.last.err != nil) {
		now.policy, now.err = f.last.policy, f.last.err
	} else {
		files := []yamldoc.File{{Name: f.name, Source: text}}
		now.policy, now.err = policy.ParseFilesSlowly(files, f.options.Catalog, pause.Half())
	}
	f.last = now
	return now.policy, now.err
}

// isText reports whether a content type may be that of YAML. Many servers do not know
// YAML and send none, or that of bytes.
func isText(kind string) bool {
	if kind == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(kind)
	if err != nil {
		return false
	}
	return strings.HasSuffix(kind, "yaml") || slices.Contains([]string{"text/plain", "application/octet-stream", "binary/octet-stream", "application/json"}, kind)
}

// maxToken bounds a token file, in bytes.
const maxToken = 64 << 10

// authorize adds the token.
func (f *Feed) authorize(req *http.Request) error {
	if f.options.TokenFile == "" {
		return nil
	}
	text, err := os.ReadFile(f.options.TokenFile)
	if err != nil {
		return fmt.Errorf("read policy_token_file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("read policy_token_file: %s must have one token, of printable ASCII without spaces", f.options.TokenFile)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return nil
}

// checkRedirect allows redirects that keep the scheme.
func (f *Feed) checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > 5:
		return errors.New("more than 5 redirects")
	case req.URL.Scheme != f.url.Scheme:
		return fmt.Errorf("redirected from %s to %s: give the URL that it leads to", f.url.Scheme, req.URL.Scheme)
	case req.URL.Scheme == "http" && !f.plaintextTo(req.URL):
		return fmt.Errorf("redirected to another machine, %s, without encryption", req.URL.Host)
	}
	return nil
}

// noAnswer describes why there is no answer, without the URL's credentials.
func (f *Feed) noAnswer(ctx context.Context, err error) error {
	if whole, ok := errors.AsType[*url.Error](err); ok {
		err = whole.Err // the text of whole shows the URL
	}
	var timeout net.Error
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("GET %s: no complete answer within %s: %w", f.name, f.options.Timeout, err)
	}
	return fmt.Errorf("GET %s: %w", f.name, err)
}

// advice says what to do about a status.
func (f *Feed) advice(status int) string {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		if f.options.TokenFile != "" {
			return ": the server refuses the token of " + f.options.TokenFile
		}
		return ": the server wants credentials: set --policy-token-file, or --policy-cert-file and --policy-key-file"
	case status == http.StatusNotFound || status == http.StatusGone:
		return ": there is no policy at this path"
	case status >= 500 || status == http.StatusTooManyRequests:
		return ": the server cannot answer now"
	}
	return ", want 200"
}

// Run returns when ctx is done: nothing needs to be done to wait.
func (f *Feed) Run(ctx context.Context) { <-ctx.Done() }
