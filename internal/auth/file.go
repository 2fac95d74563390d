// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"encoding/json"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/bucketring/bucketring/internal/jwtverify"
	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/internal/yamldoc"
)

// Callers are the callers of a file. They are immutable, but for the JWTs and certificates
// that they remember.
type Callers struct {
	list         []*caller
	tokens       secret.Map[*Grant]
	certificates map[string]*caller // by DNS name in lower case, URI, or cn:NAME
	jwt          *jwtverify.Verifier
	jwtFile      string      // with its keys; "": none
	jwtHash      secret.Hash // of that file

	seenJWTs  [maxSeen]atomic.Pointer[Grant]
	seenCerts [maxSeen]atomic.Pointer[certGrant]
}

// maxSeen is how many JWTs, and how many certificates, are remembered that were verified.
const maxSeen = 1024

// claim is what a JWT must have: one of the values, or a list with one of them.
type claim struct {
	name   string
	values []string
}

// Len returns how many callers there are.
func (c *Callers) Len() int { return len(c.list) }

// The keys of the file.
const (
	callersSection = "callers"
	jwtSection     = "jwt"
	tokensKey      = "tokens"
)

var (
	rootKeys   = []string{callersSection, jwtSection}
	callerKeys = []string{"name", tokensKey, "certificates", "claims", "scopes", "roots"}
	jwtKeys    = []string{"keys", "secret_file", "issuer", "audience"}
)

var (
	validName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	validDNSName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$`)
)

// maxRoot is the length of the longest pattern of roots, in bytes.
const maxRoot = 256

// parser collects the callers of files and their problems.
type parser struct {
	r       yamldoc.Reader
	log     *slog.Logger
	count   *failures
	callers Callers
	names   map[string]yamldoc.Node
	certs   map[string]string // the position of each certificate name
	hashes  secret.Map[string]
	claims  yamldoc.Node // the first claims
	jwt     yamldoc.Node
}

// Parse reads the callers of files, with the keys for JWTs that they name. The error is a
// [yamldoc.Problems]. It quotes no token. A nil log gets nothing.
func Parse(files []yamldoc.File, log *slog.Logger) (*Callers, error) {
	return parse(files, log, nil)
}

// parse is Parse. What the callers are refused is counted in count.
func parse(files []yamldoc.File, log *slog.Logger, count *failures) (*Callers, error) {
	p := &parser{log: log, count: count, names: map[string]yamldoc.Node{}, certs: map[string]string{}}
	p.r.RedactSection = tokensKey + ":" // somebody may write a token in place of its hash
	p.r.Synonyms = map[string]string{"token": tokensKey, "certs": "certificates", "certificate": "certificates", "scope": "scopes", "root": "roots", "users": callersSection, "jwks": "keys"}
	p.callers.certificates = map[string]*caller{}
	var last yamldoc.Node
	for _, f := range files {
		root, ok := p.r.Open(f.Name, f.Source)
		if !ok {
			continue
		}
		last = root
		if root.IsNull() {
			continue
		}
		for _, field := range p.r.Fields(root, "the file", rootKeys) {
			switch field.Name {
			case callersSection:
				for _, item := range p.r.Items(field.Value, "callers") {
					p.caller(item)
				}
			case jwtSection:
				p.jwtSettings(field, filepath.Dir(f.Name))
			}
		}
	}
	if p.claims.Exists() && !p.jwt.Exists() {
		p.r.Problem(p.claims, "claims need the section jwt, which says how JWTs are verified")
	}
	if p.r.Err() == nil && len(p.callers.list) == 0 {
		p.r.Problem(last, "callers must list at least one caller, or nobody may call; make a token for one with: bucketring auth token --name NAME --scopes call")
	}
	if err := p.r.Err(); err != nil {
		return nil, err
	}
	return &p.callers, nil
}

// caller reads one entry.
func (p *parser) caller(n yamldoc.Node) {
	c := &caller{}
	var roots yamldoc.Node
	proofs := 0
	fields := p.r.Fields(n, "a caller", callerKeys)
	for _, f := range fields {
		if f.Name == "name" {
			p.name(c, f.Value)
		}
	}
	for _, f := range fields {
		switch f.Name {
		case tokensKey:
			proofs++
			p.tokens(c, f.Value)
		case "certificates":
			proofs++
			p.certificateNames(c, f.Value)
		case "claims":
			proofs++
			p.claimValues(c, f.Value)
		case "scopes":
			p.scopes(c, f.Value)
		case "roots":
			roots = f.Value
			p.roots(c, f.Value)
		}
	}
	if !n.IsMapping() {
		return
	}
	has := func(name string) bool {
		return slices.ContainsFunc(fields, func(f yamldoc.Field) bool { return f.Name == name })
	}
	if !has("name") {
		p.r.Problem(n, "a caller must have a name, which messages and logs show")
	}
	if !has("scopes") {
		p.r.Problem(n, "a caller must have scopes: a list of %s", strings.Join(scopeNames, ", "))
	}
	if proofs == 0 {
		p.r.Problem(n, "a caller must have tokens, certificates or claims, by which it proves who it is")
	}
	if roots.Exists() && c.scopes != 0 && c.scopes&Call == 0 {
		p.r.Problem(roots, "roots restrict the scope call, which this caller does not have")
	}
	p.callers.list = append(p.callers.list, c)
}

func (p *parser) name(c *caller, n yamldoc.Node) {
	name, ok := p.r.Text(n, "name")
	if !ok {
		return
	}
	if !validName.MatchString(name) {
		p.r.Problem(n, "name must be 1 to 64 letters, digits, dots, dashes or underscores")
		return
	}
	if first, dup := p.names[name]; dup {
		p.r.Problem(n, "caller %s is listed twice, first at %s", name, first.At())
		return
	}
	p.names[name], c.name = n, name
}

func (p *parser) scopes(c *caller, n yamldoc.Node) {
	items := p.r.Items(n, "scopes")
	if items != nil && len(items) == 0 {
		p.r.Problem(n, "scopes must have at least one of %s", strings.Join(scopeNames, ", "))
	}
	for _, item := range items {
		if i, ok := p.r.Word(item, "a scope", scopeNames...); ok {
			c.scopes |= 1 << i
		}
	}
}

// tokens reads hashes. No message repeats what stands there.
func (p *parser) tokens(c *caller, n yamldoc.Node) {
	items := p.r.Items(n.Redacted(), "tokens")
	if items != nil && len(items) == 0 {
		p.r.Problem(n, "tokens must have at least one hash: make one with: bucketring auth token")
	}
	for _, item := range items {
		text, ok := p.r.Text(item, "a token")
		if !ok {
			continue
		}
		hash, ok := secret.Parse(text)
		if !ok {
			p.r.Problem(item, "a token must be %s and %d hex digits, the hash of a random token: make both with: bucketring auth token", secret.Prefix, secret.Digits)
			continue
		}
		if first, added := p.hashes.Add(hash, item.At()); !added {
			p.r.Problem(item, "this hash is listed twice, first at %s", first)
			continue
		}
		p.callers.tokens.Add(hash, &Grant{caller: c, callers: &p.callers, proof: byToken, hash: hash, count: p.count})
	}
}

// certificateNames reads DNS names, URIs and cn:NAME.
func (p *parser) certificateNames(c *caller, n yamldoc.Node) {
	items := p.r.Items(n, "certificates")
	if items != nil && len(items) == 0 {
		p.r.Problem(n, "certificates must have at least one name")
	}
	for _, item := range items {
		name, ok := p.r.Text(item, "a certificate")
		if !ok {
			continue
		}
		common, isCommon := strings.CutPrefix(name, commonName)
		uri, err := url.Parse(name)
		switch {
		case isCommon:
			ok = common != ""
		case strings.Contains(name, "://"):
			ok = err == nil && uri.Scheme != "" && uri.Host != "" && uri.String() == name
		default:
			name = strings.ToLower(name)
			ok = validDNSName.MatchString(name)
		}
		if !ok {
			p.r.Problem(item, "a certificate must be a DNS name, a URI such as spiffe://cluster.local/ns/gateway, or cn: and a common name, without wildcards")
			continue
		}
		if first, dup := p.certs[name]; dup {
			p.r.Problem(item, "this certificate is listed twice, first at %s", first)
			continue
		}
		p.certs[name], p.callers.certificates[name] = item.At(), c
	}
}

// commonName begins the common name of a certificate.
const commonName = "cn:"

func (p *parser) claimValues(c *caller, n yamldoc.Node) {
	if !p.claims.Exists() {
		p.claims = n
	}
	fields := p.r.Fields(n, "claims", nil)
	if len(fields) == 0 && n.IsMapping() {
		p.r.Problem(n, "claims must have at least one claim, or any JWT would do")
	}
	for _, f := range fields {
		one := claim{name: f.Name}
		if text, single := p.single(f.Value); single {
			one.values = []string{text}
			c.claims = append(c.claims, one)
			continue
		}
		values := p.r.Items(f.Value, "the claim "+f.Name)
		for _, v := range values {
			if text, ok := p.r.Text(v, "a value of the claim "+f.Name); ok && text != "" {
				one.values = append(one.values, text)
			}
		}
		if len(one.values) == 0 && !f.Value.IsNull() {
			p.r.Problem(f.Value, "the claim %s must be a text, or a list of texts of which a JWT must have one", f.Name)
		}
		c.claims = append(c.claims, one)
	}
}

// single returns the text of a single value.
func (p *parser) single(n yamldoc.Node) (string, bool) {
	if n.IsNull() || n.IsMapping() || n.IsList() {
		return "", false
	}
	text, ok := p.r.Text(n, "a claim")
	return text, ok && text != ""
}

func (p *parser) roots(c *caller, n yamldoc.Node) {
	items := p.r.Items(n, "roots")
	if items != nil && len(items) == 0 {
		p.r.Problem(n, "roots must have at least one pattern, such as acme or team-*; leave roots out for all")
	}
	for _, item := range items {
		text, ok := p.r.Text(item, "a root")
		if !ok {
			continue
		}
		if text == "" || len(text) > maxRoot || strings.Contains(text, "/") {
			p.r.Problem(item, "a root must be the first segment of keys, of 1 to %d bytes without a slash, where a star stands for any text", maxRoot)
			continue
		}
		c.roots = append(c.roots, pattern(text))
	}
}

// jwtSettings reads the section jwt, and the keys that it names.
func (p *parser) jwtSettings(section yamldoc.Field, directory string) {
	if p.jwt.Exists() {
		p.r.Problem(section.Key, "the section jwt is given twice, first at %s", p.jwt.At())
		return
	}
	p.jwt = section.Key
	o := jwtverify.Options{Logger: p.log}
	var keys, secretFile yamldoc.Node
	for _, f := range p.r.Fields(section.Value, "jwt", jwtKeys) {
		value, ok := p.r.Text(f.Value, f.Name)
		if ok && value == "" {
			p.r.Problem(f.Value, "%s must not be empty", f.Name)
		}
		switch f.Name {
		case "keys":
			keys = f.Value
		case "secret_file":
			secretFile = f.Value
		case "issuer":
			o.Issuer = value
		case "audience":
			o.Audience = value
		}
	}
	if keys.Exists() == secretFile.Exists() {
		if section.Value.IsMapping() {
			p.r.Problem(section.Key, "jwt must have either keys, a file with public keys in PEM or JWKS, or secret_file, a file with the secret of HS256")
		}
		return
	}
	from := keys
	if secretFile.Exists() {
		from = secretFile
	}
	path, ok := p.r.Text(from, "the file")
	if !ok || path == "" {
		return
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(directory, path)
	}
	source, err := os.ReadFile(path)
	var skipped []error
	switch {
	case err != nil:
	case secretFile.Exists():
		o.Keys, err = jwtverify.ParseSecret(source)
	default:
		o.Keys, skipped, err = jwtverify.ParseKeys(source)
	}
	if err == nil {
		p.callers.jwt, err = jwtverify.New(o)
	}
	if err != nil {
		p.r.Problem(from, "the keys for JWTs cannot be read: %s: %v", path, err)
		return
	}
	p.callers.jwtFile, p.callers.jwtHash = path, secret.Of(string(source))
	for _, why := range skipped {
		if p.log != nil {
			p.log.Warn("a key for tokens is skipped", "file", path, "error", why)
		}
	}
}

// has reports whether the claims of a JWT have what a caller's must have.
func (c *caller) has(claims map[string]any) bool {
	for _, want := range c.claims {
		if !want.in(claims[want.name]) {
			return false
		}
	}
	return len(c.claims) > 0
}

func (c *claim) in(value any) bool {
	switch v := value.(type) {
	case string:
		return slices.Contains(c.values, v)
	case json.Number:
		return slices.Contains(c.values, v.String())
	case bool:
		return slices.Contains(c.values, map[bool]string{true: "true", false: "false"}[v])
	case []any:
		return slices.ContainsFunc(v, c.in1)
	}
	return false
}

// in1 is in, for an element of a list.
func (c *claim) in1(value any) bool {
	_, list := value.([]any)
	return !list && c.in(value)
}

// ParseScopes returns the scopes with names.
func ParseScopes(names []string) (s Scope, unknown, suggestion string) {
	for _, name := range names {
		i := slices.Index(scopeNames, name)
		if i < 0 {
			return 0, name, nearest.Word(name, scopeNames)
		}
		s |= 1 << i
	}
	return s, "", ""
}

// ScopeNames returns the names of all scopes.
func ScopeNames() []string { return slices.Clone(scopeNames) }

// ValidName reports whether a caller may have a name.
func ValidName(name string) bool { return validName.MatchString(name) }
