// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/url"
	"strings"
	"time"
)

// PolicySource has the settings for a policy that is at a URL or in a database.
type PolicySource struct {
	Interval  time.Duration `key:"interval" default:"10s" help:"time between two looks at --policy https://... or, without a notification, postgres://..., up to 10% shorter or longer at random"`
	TokenFile string        `key:"token_file" help:"file with the bearer token for --policy https://..., read for each request"`
	CAFile    string        `key:"ca_file" help:"CA certificates in PEM that verify the server of --policy https://..., read again when they change; empty means those of the system; for postgres://... write sslrootcert in the URL"`
	CertFile  string        `key:"cert_file" help:"client certificate in PEM for --policy https://..., read again when it changes; for postgres://... write sslcert in the URL"`
	KeyFile   string        `key:"key_file" help:"private key of --policy-cert-file, in PEM"`
}

// validate checks the settings for a policy at path.
func (s *PolicySource) validate(path string, p *problems) {
	if s.Interval <= 0 {
		p.add("policy_interval", "must be more than 0, got %s", s.Interval)
	}
	isWeb := strings.HasPrefix(path, "https://") || strings.HasPrefix(path, "http://")
	for _, file := range []struct{ key, path string }{
		{"policy_token_file", s.TokenFile}, {"policy_ca_file", s.CAFile}, {"policy_cert_file", s.CertFile}, {"policy_key_file", s.KeyFile},
	} {
		if file.path != "" && !isWeb {
			p.add(file.key, "is for --policy https://... only")
		}
	}
	if (s.CertFile == "") != (s.KeyFile == "") {
		p.add("policy_cert_file", "must be set together with --policy-key-file")
	}
}

// redacted returns a setting without the password and the parameters of a URL, which may
// be credentials.
func redacted(value any) any {
	text, isText := value.(string)
	if !isText || !strings.Contains(text, "://") {
		return value
	}
	u, err := url.Parse(text)
	if err != nil {
		return "(a URL that cannot be parsed, not shown)"
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), "xxxxx")
	}
	if query := u.Query(); len(query) > 0 {
		for name := range query {
			if !shownParameters[name] {
				query.Set(name, "xxxxx")
			}
		}
		u.RawQuery = query.Encode()
	}
	return u.String()
}

// shownParameters are parameters of URLs of PostgreSQL that are no credentials.
var shownParameters = map[string]bool{
	"host": true, "port": true, "sslmode": true, "sslrootcert": true, "sslcert": true, "sslkey": true,
	"connect_timeout": true, "application_name": true, "search_path": true, "target_session_attrs": true,
}
