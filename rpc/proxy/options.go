// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// Defaults of [Options].
const (
	DefaultHeaderTimeout = 10 * time.Minute
	DefaultStallTimeout  = time.Minute
	DefaultBodyTimeout   = time.Minute
)

// Options configure a [Proxy]. Upstream is needed, like Client and Identify of
// Middleware; the rest has defaults.
type Options struct {
	// Upstream is the URL of the model server. Its path is put before that of
	// each request.
	Upstream *url.URL

	// UpstreamKey is the proxy's own credential. It goes upstream in place of the
	// caller's: with metered calls, and with requests that pass if an identity is
	// found in them all the same. Empty: the caller's goes on.
	UpstreamKey string

	// HeaderTimeout is how long the upstream may take until its answer begins,
	// which without streaming is all of it. 0: [DefaultHeaderTimeout].
	HeaderTimeout time.Duration
	// StallTimeout is how long a caller may take nothing of an answer before it
	// counts as gone: its slot is needed. 0: [DefaultStallTimeout].
	StallTimeout time.Duration
	// BodyTimeout is how long the body of a request may take to come, and how long
	// that of one that passes may pause. 0: [DefaultBodyTimeout].
	BodyTimeout time.Duration

	// Pass has what goes upstream unmetered and without an identity. Nil:
	// everything.
	Pass Pass

	// Middleware says how calls are metered. ForceUsage is always set, and Cost
	// must not be.
	Middleware middleware.Options
}

// Validate returns every problem of o.
func (o Options) Validate() error {
	var errs []error
	if o.Upstream == nil {
		errs = append(errs, errors.New("upstream: must be set"))
	} else if problem := upstreamProblem(o.Upstream); problem != "" {
		errs = append(errs, fmt.Errorf("upstream: %s, got %q", problem, o.Upstream.Redacted()))
	}
	if problem := headerProblem(o.UpstreamKey); problem != "" {
		errs = append(errs, errors.New("upstream_key: "+problem))
	}
	if o.HeaderTimeout < 0 {
		errs = append(errs, fmt.Errorf("header_timeout: must not be negative, got %v", o.HeaderTimeout))
	}
	if o.StallTimeout < 0 {
		errs = append(errs, fmt.Errorf("stall_timeout: must not be negative, got %v", o.StallTimeout))
	}
	if o.BodyTimeout < 0 {
		errs = append(errs, fmt.Errorf("body_timeout: must not be negative, got %v", o.BodyTimeout))
	}
	if o.Middleware.Estimate != nil {
		errs = append(errs, errors.New("cost: must not be set"))
	}
	return errors.Join(append(errs, o.Middleware.Validate())...)
}

func (o Options) withDefaults() Options {
	if o.HeaderTimeout == 0 {
		o.HeaderTimeout = DefaultHeaderTimeout
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = DefaultStallTimeout
	}
	if o.BodyTimeout == 0 {
		o.BodyTimeout = DefaultBodyTimeout
	}
	if o.Pass == nil {
		o.Pass = passAll()
	}
	o.Middleware.ForceUsage = true
	return o
}

// ParseUpstream reads the URL of a model server.
func ParseUpstream(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("must be a URL such as http://127.0.0.1:8000") // the error has all of it
	}
	if problem := upstreamProblem(u); problem != "" {
		return nil, fmt.Errorf("%s, got %q", problem, u.Redacted())
	}
	return u, nil
}

func upstreamProblem(u *url.URL) string {
	switch {
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return "must be a URL such as http://127.0.0.1:8000"
	case u.User != nil:
		return "must have no user: give the credential as the upstream key"
	case u.RawQuery != "" || u.Fragment != "":
		return "must have no query"
	}
	return ""
}

// headerProblem says why text can't be a credential in a header, without
// showing it.
func headerProblem(text string) string {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return "must be ASCII without spaces"
		}
	}
	return ""
}

// ParseDisconnectMode reads what becomes of a call whose caller leaves: charge or drain.
func ParseDisconnectMode(text string) (middleware.DisconnectMode, error) {
	switch text {
	case "charge":
		return middleware.ChargeStreamed, nil
	case "drain":
		return middleware.Drain, nil
	}
	return 0, fmt.Errorf("must be charge or drain, got %q", text)
}
