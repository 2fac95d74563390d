// SPDX-License-Identifier: Apache-2.0

// Package tlsfiles has the TLS of this project in one place: it loads certificates, keys
// and CA certificates from files in PEM, reads them again when they change, and makes the
// configurations of servers and of callers from them.
//
// Files are looked at before each handshake, by their size and time. A change is used by
// the next handshake; connections that exist are left alone. If the new files cannot be
// used, the previous ones stay in use, and [Store.Status], a metric and one line of the log
// say why.
package tlsfiles

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// settling is how old a file must be before its times can be trusted to show the next
	// change, and before a problem with it is one. A certificate and its key are two files,
	// and one is written before the other.
	settling = 2 * time.Second
	// maxFile bounds the size of a file.
	maxFile = 1 << 20
)

// Files are paths of files in PEM. Cert and Key belong together. CA has the certificates
// of the authorities that verify the other side. Any of them may be empty.
type Files struct{ Cert, Key, CA string }

// Options configure a [Store].
type Options struct {
	Files
	// Settings are the names of the settings of Files, for errors.
	Settings Files
	// Name says what the files are for, in the status, the log and metrics.
	Name string
	// Own has the certificate verified by the CA certificates, as other members will.
	Own bool
	// Check returns an error if a certificate is not the right one. Nil: any is.
	Check func(leaf *x509.Certificate) error

	Logger *slog.Logger     // nil: no log
	Now    func() time.Time // nil: the machine's clock
}

// A Store has the content of files. It is safe for concurrent use.
type Store struct {
	options Options
	log     *slog.Logger
	current atomic.Pointer[material]

	mu struct {
		sync.Mutex
		seen    []os.FileInfo // of the files when they were last read; nil: read them again
		content [][]byte
		problem string // why the latest files are not in use
		reloads int64
		failed  int64
	}
}

// material is the content of files, never modified.
type material struct {
	cert   *tls.Certificate    // nil: none
	pool   *x509.CertPool      // nil: none
	cas    []*x509.Certificate // of pool
	loaded time.Time
}

// Open reads the files. An error names the setting and the file, and says what to do.
func Open(o Options) (*Store, error) {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{options: o, log: o.Logger}
	seen, content, err := s.read()
	if err != nil {
		return nil, err
	}
	m, err := s.parse(content)
	if err != nil {
		return nil, err
	}
	s.mu.seen, s.mu.content = seen, content
	s.current.Store(m)
	return s, nil
}

// load returns what the files have now or, if that cannot be used, had before.
func (s *Store) load() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checkLocked()
	return s.current.Load()
}

// checkLocked reads the files again if they have changed.
func (s *Store) checkLocked() {
	now := s.options.Now()
	if s.mu.seen != nil && s.unchangedLocked(now) {
		return
	}
	seen, content, err := s.read()
	if err == nil && s.mu.problem == "" && slices.EqualFunc(content, s.mu.content, bytes.Equal) {
		s.mu.seen = seen
		return
	}
	var m *material
	if err == nil {
		m, err = s.parse(content)
	}
	if err != nil {
		s.failedLocked(now, seen, err)
		return
	}
	if s.mu.problem != "" || !slices.EqualFunc(content, s.mu.content, bytes.Equal) {
		s.mu.reloads++
		s.log.Info("certificates read again", "files", s.options.Name, "names", names(m), "expires", expiry(m))
	}
	s.mu.seen, s.mu.content, s.mu.problem = seen, content, ""
	s.current.Store(m)
}

// failedLocked keeps what is in use. It is no problem yet if a file was changed just now.
func (s *Store) failedLocked(now time.Time, seen []os.FileInfo, err error) {
	s.mu.seen = nil // look again at the next handshake
	for _, info := range seen {
		if age := now.Sub(info.ModTime()); age >= 0 && age < settling {
			return
		}
	}
	if text := err.Error(); text != s.mu.problem {
		s.mu.failed++
		s.mu.problem = text
		s.log.Warn("changed certificates cannot be used, the previous ones stay in use", "files", s.options.Name, "error", err)
	}
}

// unchangedLocked reports whether the files are those that were read, by their times.
func (s *Store) unchangedLocked(now time.Time) bool {
	for i, path := range s.paths() {
		info, err := os.Stat(path)
		old := s.mu.seen[i]
		if err != nil || !os.SameFile(info, old) || info.Size() != old.Size() || !info.ModTime().Equal(old.ModTime()) {
			return false
		}
		if age := now.Sub(info.ModTime()); age < settling { // it may change once more at the same time
			return false
		}
	}
	return true
}

// paths lists the files that are set.
func (s *Store) paths() []string {
	return slices.DeleteFunc([]string{s.options.Cert, s.options.Key, s.options.CA}, func(path string) bool { return path == "" })
}

// read reads the files, in the order of paths.
func (s *Store) read() (seen []os.FileInfo, content [][]byte, err error) {
	f, names := s.options.Files, s.options.Settings
	for _, file := range []struct{ path, setting string }{{f.Cert, names.Cert}, {f.Key, names.Key}, {f.CA, names.CA}} {
		if file.path == "" {
			continue
		}
		info, err := os.Stat(file.path) // before it is read: a change meanwhile is seen later
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return seen, nil, fmt.Errorf("%s: %w; make one with: bucketring certs", file.setting, err)
		case err != nil:
			return seen, nil, fmt.Errorf("%s: %w", file.setting, err)
		case !info.Mode().IsRegular() || info.Size() > maxFile:
			return seen, nil, fmt.Errorf("%s: %s must be a file of at most 1 MiB", file.setting, file.path)
		}
		seen = append(seen, info)
		text, err := os.ReadFile(file.path)
		if err != nil {
			return seen, nil, fmt.Errorf("%s: %w", file.setting, err)
		}
		content = append(content, text)
	}
	return seen, content, nil
}

// parse makes sense of the content of the files.
func (s *Store) parse(content [][]byte) (*material, error) {
	f, setting, now := s.options.Files, s.options.Settings, s.options.Now()
	m := &material{loaded: now}
	var intermediates *x509.CertPool
	if f.Cert != "" {
		pair, err := tls.X509KeyPair(content[0], content[1])
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %s and %s are not a certificate and its key: %w", setting.Cert, setting.Key, f.Cert, f.Key, err)
		}
		leaf := pair.Leaf
		if err := validAt(leaf, now); err != nil {
			return nil, fmt.Errorf("%s: the certificate in %s %w", setting.Cert, f.Cert, err)
		}
		intermediates = x509.NewCertPool()
		for _, der := range pair.Certificate[1:] {
			if c, err := x509.ParseCertificate(der); err == nil {
				intermediates.AddCert(c)
			}
		}
		m.cert = &pair
		content = content[2:]
	}
	if f.CA != "" {
		m.pool = x509.NewCertPool()
		for rest := content[0]; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				return nil, fmt.Errorf("%s: %s has a block of type %q, want CA certificates only", setting.CA, f.CA, block.Type)
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", setting.CA, f.CA, err)
			}
			m.cas = append(m.cas, c)
			m.pool.AddCert(c)
		}
		if len(m.cas) == 0 {
			return nil, fmt.Errorf("%s: %s has no certificate in PEM form", setting.CA, f.CA)
		}
	}
	if m.cert != nil && m.pool != nil && s.options.Own {
		_, err := m.cert.Leaf.Verify(x509.VerifyOptions{
			Roots: m.pool, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err != nil {
			return nil, fmt.Errorf("%s: the CA certificates in %s do not verify the certificate in %s: %w; issue it with that CA, or add its CA to the file",
				setting.CA, f.CA, f.Cert, err)
		}
	}
	if m.cert != nil && s.options.Check != nil {
		if err := s.options.Check(m.cert.Leaf); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", setting.Cert, f.Cert, err)
		}
	}
	return m, nil
}

// validAt returns an error for a certificate that is not valid at a time.
func validAt(c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("has expired at %s: issue a new one", c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return fmt.Errorf("is not valid before %s: check the clock of this machine", c.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

func names(m *material) []string {
	if m.cert == nil {
		return nil
	}
	return namesOf(m.cert.Leaf)
}

// expiry returns when the certificate expires, the zero time if there is none.
func expiry(m *material) time.Time {
	if m.cert == nil {
		return time.Time{}
	}
	return m.cert.Leaf.NotAfter.UTC()
}
