// SPDX-License-Identifier: Apache-2.0

package tlsfiles

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// DefaultPattern is the pattern of members whose certificates have their name as DNS name.
const DefaultPattern = "{name}"

// placeholder is what a pattern has in place of a name.
const placeholder = "{name}"

// A Pattern says which name a member's certificate must have: a DNS name, or a URI such as
// spiffe://example.org/bucketring/{name}, in which {name} stands for the member's name.
type Pattern string

// Validate returns an error for a pattern that cannot be used.
func (p Pattern) Validate() error {
	if strings.Count(string(p), placeholder) != 1 || strings.ContainsAny(string(p), " *") {
		return fmt.Errorf("must be a DNS name or a URI with {name} in it once, such as {name}.nodes.example or spiffe://example.org/bucketring/{name}, got %q", string(p))
	}
	return nil
}

// Of returns the name that the certificate of a member must have.
func (p Pattern) Of(member string) string {
	return strings.Replace(string(p), placeholder, member, 1)
}

// Check returns an error if a certificate is not for a member. Wildcards in certificates
// do not count: who has such a certificate could take any name.
func (p Pattern) Check(leaf *x509.Certificate, member string) error {
	want := p.Of(member)
	if strings.Contains(want, "://") {
		if slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == want }) {
			return nil
		}
	} else if slices.Contains(leaf.DNSNames, want) {
		return nil
	}
	return fmt.Errorf("the certificate is for %s, and that of member %s must be for %s: issue one with that name", listOf(namesOf(leaf)), member, want)
}

// IsMember reports whether a certificate is for a member of any name.
func (p Pattern) IsMember(leaf *x509.Certificate) bool {
	before, after, _ := strings.Cut(string(p), placeholder)
	matches := func(name string) bool {
		return len(name) > len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after) && !strings.Contains(name, "*")
	}
	if strings.Contains(before, "://") {
		return slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return matches(u.String()) })
	}
	return slices.ContainsFunc(leaf.DNSNames, matches)
}

// HasName returns an error unless a certificate is for a name, a DNS name or a URI.
// Wildcards in certificates count.
func HasName(leaf *x509.Certificate, name string) error {
	if !strings.Contains(name, "://") {
		return leaf.VerifyHostname(name)
	}
	for _, uri := range leaf.URIs {
		if uri.String() == name {
			return nil
		}
	}
	return fmt.Errorf("the certificate is for %s, not for %s", listOf(namesOf(leaf)), name)
}

// namesOf lists the names of a certificate.
func namesOf(c *x509.Certificate) (list []string) {
	list = append(list, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	for _, uri := range c.URIs {
		list = append(list, uri.String())
	}
	return list
}

func listOf(names []string) string {
	if len(names) == 0 {
		return "no name"
	}
	return strings.Join(names, ", ")
}
