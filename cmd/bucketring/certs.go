// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/certs"
	"github.com/bucketring/bucketring/internal/tlsfiles"
)

const (
	defaultCertsDir = "certs"
	caName          = "ca" // of the files
	day             = 24 * time.Hour
)

// certName is what names of certificates may have: they are names of files and of members.
var certName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func newCerts(s *streams) *cobra.Command {
	cmd := commandGroup(&cobra.Command{
		Use:   "certs",
		Short: "Make certificates for a first cluster",
		Long: `Make a certificate authority and certificates for members and callers, in files. It
needs no service and no network. Any other authority does as well: see docs/security.md
for what certificates must have.`,
		Example: `  bucketring certs init
  bucketring certs issue node1 node2 node3
  bucketring certs issue --client gateway`,
	})
	cmd.AddCommand(newCertsInit(s), newCertsIssue(s))
	return cmd
}

// madeCert is a certificate that was made, for -o json.
type madeCert struct {
	Name    string    `json:"name"`
	Cert    string    `json:"cert"`
	Key     string    `json:"key"`
	Names   []string  `json:"names,omitempty"`
	Expires time.Time `json:"expires"`
}

func newCertsInit(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a certificate authority",
		Long: `Make a certificate authority: ca.crt, which all members and callers get, and ca.key,
which issues certificates. Keep ca.key away from the machines of the cluster: who has it
can be any member. Existing files are never replaced.`,
		Example: `  bucketring certs init
  bucketring certs init --dir next-ca --name "bucketring 2027"`,
		Args: exactArgs(),
	}
	flags := cmd.Flags()
	dir := flags.String("dir", defaultCertsDir, "directory of the files, which is made if needed")
	name := flags.String("name", "bucketring CA", "name of the authority")
	days := flags.Int("days", int(certs.CALifetime/day), "days until the authority expires, and all certificates with it")
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkDays(cmd, *days); err != nil {
			return err
		}
		now := time.Now()
		a, err := certs.New(*name, now, now.Add(time.Duration(*days)*day))
		if err != nil {
			return errorWithHint(err, "")
		}
		cert, key, err := a.Write(*dir, caName)
		if err != nil {
			return writeCertError(err)
		}
		made := madeCert{Name: *name, Cert: cert, Key: key, Expires: a.Expires().UTC().Truncate(time.Second)}
		if *output == formatJSON {
			return s.writeJSON(made)
		}
		s.printf("%s  the authority, for all members and callers, until %s\n%s  its key: keep it away from the cluster\n", cert, made.Expires.Format(time.DateOnly), key)
		s.notef("next: bucketring certs issue NODE1 NODE2 NODE3%s\n", dirFlag(*dir))
		return nil
	}
	return cmd
}

func newCertsIssue(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "issue [MEMBER]...",
		Short: "Issue certificates for members or callers",
		Long: `Issue a certificate for each member, with its name and localhost as DNS names and the
loopback addresses. Callers and members verify the host that they call: give the names and
addresses at which the members are reached with --dns and --ip, which all the certificates
of one command get. With --client, issue certificates for callers, with the URI
bucketring://client/NAME; they cannot be used by members.

A proxy that runs alone has two: one as of a member, with the names at which its callers
reach it, for --tls-cert-file, and one with --client for --servers-cert-file. Members trust
whoever has a certificate with a member's name, so issue the first from an authority of its
own, with --dir.

The files are NAME.crt and NAME.key. Existing files are never replaced: to renew a
certificate, issue it into another directory and move it over the old one.`,
		Example: `  bucketring certs issue node1 node2 node3 --dns bucketring.example
  bucketring certs issue node1 --dns node1.example --ip 10.0.0.11
  bucketring certs issue node1 --peer-name "spiffe://example.org/bucketring/{name}"
  bucketring certs issue --client gateway --days 90`,
		Args: cobra.ArbitraryArgs,
	}
	flags := cmd.Flags()
	clients := flags.StringSlice("client", nil, "callers, instead of members, separated by commas")
	dns := flags.StringSlice("dns", nil, "further DNS names, separated by commas")
	ips := flags.IPSlice("ip", nil, "further IP addresses, separated by commas")
	peer := flags.String("peer-name", tlsfiles.DefaultPattern, "name that members need, if --tls-peer-name of the nodes has another pattern")
	dir := flags.String("dir", defaultCertsDir, "directory of ca.crt and ca.key, and of the files")
	out := flags.String("out", "", "directory of the files, if it is another one")
	days := flags.Int("days", int(certs.Lifetime/day), "days until the certificates expire")
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, members []string) error {
		names := members
		switch {
		case len(members) > 0 && len(*clients) > 0:
			return usageError(cmd, errors.New("--client: give members or callers, not both"), "")
		case len(*clients) > 0:
			names = *clients
		case len(members) == 0:
			return usageError(cmd, errors.New("missing names of members, or --client"), cmd.CommandPath()+" node1 node2 node3")
		}
		if err := checkDays(cmd, *days); err != nil {
			return err
		}
		pattern := tlsfiles.Pattern(*peer)
		if err := pattern.Validate(); err != nil {
			return usageError(cmd, fmt.Errorf("--peer-name: %w", err), "")
		}
		for _, name := range names {
			if !certName.MatchString(name) || name == caName {
				return usageError(cmd, fmt.Errorf("name: must be 1 to 64 letters, digits, dots, dashes or underscores, and not %q, got %q", caName, name), "")
			}
		}
		caCert, caKey := certs.Paths(*dir, caName)
		authority, err := certs.Load(caCert, caKey)
		if err != nil {
			return errorWithHint(err, "bucketring certs init"+dirFlag(*dir))
		}
		target := *dir
		if *out != "" {
			target = *out
		}
		requests := make([]certs.Request, len(names))
		for i, name := range names { // all are checked before the first is written
			now := time.Now()
			requests[i] = certs.Request{Name: name, DNS: *dns, IPs: *ips, Client: len(*clients) > 0, NotBefore: now, Expires: now.Add(time.Duration(*days) * day)}
			if err := addNames(&requests[i], pattern); err != nil {
				return usageError(cmd, err, "")
			}
			for _, path := range pathsOf(target, name) {
				if _, err := os.Lstat(path); err == nil {
					return writeCertError(fmt.Errorf("%s exists already: %w", path, os.ErrExist))
				}
			}
		}
		var list []madeCert
		for _, r := range requests {
			if r.Expires.After(authority.Expires()) {
				r.Expires = authority.Expires()
			}
			pair, err := authority.Issue(r)
			if err != nil {
				return errorWithHint(err, "")
			}
			cert, key, err := pair.Write(target, r.Name)
			if err != nil {
				return writeCertError(err)
			}
			list = append(list, madeCert{r.Name, cert, key, namesOf(&r), r.Expires.UTC().Truncate(time.Second)})
		}
		if *output == formatJSON {
			return s.writeJSON(list)
		}
		for _, c := range list {
			s.printf("%s  %s, until %s\n", c.Cert, strings.Join(c.Names, " "), c.Expires.Format(time.DateOnly))
		}
		s.noteNextOfCert(caCert, list[0], len(*clients) > 0)
		return nil
	}
	return cmd
}

// noteNextOfCert says what a certificate is for: a command or a proxy that calls nodes, or a
// node or the listener of a proxy.
func (s *streams) noteNextOfCert(ca string, c madeCert, client bool) {
	if client {
		s.notef("next: bucketring check acme/alice --tls-ca-file %s --tls-cert-file %s --tls-key-file %s\n", ca, c.Cert, c.Key)
		s.notef("  or, of a proxy: bucketring proxy ... --servers-ca-file %s --servers-cert-file %s --servers-key-file %s\n", ca, c.Cert, c.Key)
		return
	}
	s.notef("next: bucketring serve --name %s --tls required --tls-ca-file %s --tls-cert-file %s --tls-key-file %s\n", c.Name, ca, c.Cert, c.Key)
	s.notef("  or, for callers of a proxy: bucketring proxy ... --tls required --tls-cert-file %s --tls-key-file %s\n", c.Cert, c.Key)
}

func pathsOf(dir, name string) []string {
	cert, key := certs.Paths(dir, name)
	return []string{cert, key}
}

// addNames adds the names that a certificate has by default.
func addNames(r *certs.Request, pattern tlsfiles.Pattern) error {
	if r.Client {
		r.URIs = []*url.URL{certs.ClientURI(r.Name)}
		return nil
	}
	names := []string{r.Name, "localhost"}
	if own := pattern.Of(r.Name); strings.Contains(own, "://") {
		uri, err := url.Parse(own)
		if err != nil {
			return fmt.Errorf("--peer-name: %w", err)
		}
		r.URIs = []*url.URL{uri}
	} else if own != r.Name {
		names = append(names, own)
	}
	r.DNS = append(names, r.DNS...)
	r.IPs = append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, r.IPs...)
	return nil
}

// namesOf lists the names of a certificate.
func namesOf(r *certs.Request) []string {
	names := append([]string{}, r.DNS...)
	for _, ip := range r.IPs {
		names = append(names, ip.String())
	}
	for _, uri := range r.URIs {
		names = append(names, uri.String())
	}
	return names
}

func checkDays(cmd *cobra.Command, days int) error {
	if days < 1 || days > 36500 {
		return usageError(cmd, fmt.Errorf("--days: must be 1 to 36500, got %d", days), "")
	}
	return nil
}

// writeCertError returns the error of files that cannot be written.
func writeCertError(err error) error {
	if errors.Is(err, os.ErrExist) {
		return errorWithHint(err, "another directory, or move the old file away first")
	}
	return errorWithHint(err, "")
}

// dirFlag returns the flag for a directory that is not the default.
func dirFlag(dir string) string {
	if dir == defaultCertsDir {
		return ""
	}
	return " --dir " + shellQuote(dir)
}
