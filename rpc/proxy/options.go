// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/bucketring/bucketring/internal/tracing"
	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// Defaults of [Options].
const (
	DefaultResponseHeaderTimeout = 10 * time.Minute
	DefaultStallTimeout          = time.Minute
	DefaultBodyTimeout           = time.Minute
)

// Options configure a [Proxy]. Upstream is required, and so are Client and Identify
// of Middleware.
type Options struct {
	// Upstream is the URL of the model server. Its path is a prefix for the path of
	// each request. See [ParseUpstream].
	Upstream *url.URL

	// UpstreamKey is a credential that replaces that of the caller in metered calls,
	// and in unmetered requests from which Identify returns an identity. Empty: the
	// caller's credential is forwarded.
	UpstreamKey string

	// ResponseHeaderTimeout is how long the upstream may take to begin its response.
	// Without streaming, that includes the whole generation. 0:
	// [DefaultResponseHeaderTimeout].
	ResponseHeaderTimeout time.Duration
	// StallTimeout is how long a write to a caller may block before the caller counts
	// as disconnected. 0: [DefaultStallTimeout].
	StallTimeout time.Duration
	// BodyTimeout is how long the body of a metered or rejected request may take to
	// arrive, and how long the body of an unmetered request may pause. 0:
	// [DefaultBodyTimeout].
	BodyTimeout time.Duration

	// Pass allows unmetered requests. Nil: those of [Safe].
	Pass Pass
	// Meter lists requests to other endpoints that are metered by count. See
	// [middleware.Options].Count.
	Meter Meter

	// Origins are the web origins whose pages may read responses, also those of errors
	// and denials. The proxy then answers preflight requests itself. Headers that the
	// upstream sends for this purpose win. Empty: the upstream decides, and errors of the
	// proxy cannot be read by pages of other origins.
	Origins Origins

	// Tracer makes spans of metered requests. Nil: none. It is also that of Middleware.
	Tracer *tracing.Tracer

	// Middleware configures the metering. BodyTimeout is that of the proxy, and Estimate
	// and Count must be nil.
	Middleware middleware.Options
}

// Validate returns all problems of o, joined.
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
	if o.ResponseHeaderTimeout < 0 {
		errs = append(errs, fmt.Errorf("response_header_timeout: must not be negative, got %v", o.ResponseHeaderTimeout))
	}
	if o.StallTimeout < 0 {
		errs = append(errs, fmt.Errorf("stall_timeout: must not be negative, got %v", o.StallTimeout))
	}
	if o.BodyTimeout < 0 {
		errs = append(errs, fmt.Errorf("body_timeout: must not be negative, got %v", o.BodyTimeout))
	}
	if o.Middleware.Estimate != nil {
		errs = append(errs, errors.New("estimate: must not be set"))
	}
	if o.Middleware.Count != nil {
		errs = append(errs, errors.New("count: must not be set, use meter"))
	}
	return errors.Join(append(errs, o.Middleware.Validate())...)
}

func (o Options) withDefaults() Options {
	if o.ResponseHeaderTimeout == 0 {
		o.ResponseHeaderTimeout = DefaultResponseHeaderTimeout
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = DefaultStallTimeout
	}
	if o.BodyTimeout == 0 {
		o.BodyTimeout = DefaultBodyTimeout
	}
	if o.Pass == nil {
		o.Pass = safe()
	}
	if o.Middleware.Model == "" {
		o.Middleware.Model = llm.ModelOfPath(o.Upstream.Path)
	}
	if o.Tracer != nil {
		o.Middleware.Tracer = o.Tracer
	}
	o.Middleware.BodyTimeout = -1 // the proxy bounds all bodies
	return o
}

// ParseUpstream parses the URL of a model server. It must have the scheme http or
// https and a host, and neither a user nor a query. Errors do not contain passwords.
func ParseUpstream(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("must be a URL such as http://127.0.0.1:8000") // the error of url.Parse would contain a password
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
		return "must not contain a user: set the credential with upstream_key"
	case u.RawQuery != "" || u.Fragment != "":
		return "must not contain a query"
	}
	return ""
}

// headerProblem returns why text cannot be a credential in a header, or "". The
// problem does not contain the text.
func headerProblem(text string) string {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return "must be printable ASCII without spaces"
		}
	}
	return ""
}

// ParseUndecidedMode parses "deny" or "allow".
func ParseUndecidedMode(text string) (middleware.UndecidedMode, error) {
	switch text {
	case "deny":
		return middleware.DenyUndecided, nil
	case "allow":
		return middleware.AllowUndecided, nil
	}
	return 0, fmt.Errorf("must be deny or allow, got %q", text)
}

// ParseAccessLog parses "off", "sampled" or "on".
func ParseAccessLog(text string) (middleware.AccessLog, error) {
	for _, a := range [...]middleware.AccessLog{middleware.AccessLogOff, middleware.AccessLogSampled, middleware.AccessLogOn} {
		if text == a.String() {
			return a, nil
		}
	}
	return 0, fmt.Errorf("must be off, sampled or on, got %q", text)
}

// ParseDisconnectMode parses "charge" or "drain".
func ParseDisconnectMode(text string) (middleware.DisconnectMode, error) {
	switch text {
	case "charge":
		return middleware.ChargeStreamed, nil
	case "drain":
		return middleware.Drain, nil
	}
	return 0, fmt.Errorf("must be charge or drain, got %q", text)
}

// ParseStreamUsage parses "auto", "always" or "never".
func ParseStreamUsage(text string) (middleware.StreamUsage, error) {
	return middleware.ParseStreamUsage(text)
}
