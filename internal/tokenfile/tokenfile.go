// SPDX-License-Identifier: Apache-2.0

// Package tokenfile gives the token that a caller sends: one text, or a file that is read
// again when it changes, so that a token can be replaced while the caller runs.
package tokenfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

const (
	// maxBytes bounds a file.
	maxBytes = 64 << 10
	// interval is how long a token is used before the file is looked at again.
	interval = 100 * time.Millisecond
)

// Source gives a token. It is safe for concurrent use.
type Source struct {
	path string // "": make gives the token
	make func() (string, error)
	now  func() time.Time

	current atomic.Pointer[read]
	mu      sync.Mutex // held to read the file
}

// read is what was read of a file.
type read struct {
	token   string
	info    os.FileInfo
	checked time.Time
}

var _ credentials.PerRPCCredentials = (*Source)(nil)

// Static returns a source of one token.
func Static(token string) (*Source, error) {
	if err := check(token); err != nil {
		return nil, err
	}
	return Func(func() (string, error) { return token, nil }), nil
}

// Func returns a source of what a function gives, which must be safe for concurrent use.
func Func(token func() (string, error)) *Source { return &Source{make: token} }

// File returns a source of the token in a file, which it reads now. While the file cannot be
// read later, the last token stays.
func File(path string) (*Source, error) {
	s := &Source{path: path, now: time.Now}
	if _, err := s.refresh(nil); err != nil {
		return nil, err
	}
	return s, nil
}

// Token returns the token.
func (s *Source) Token() (string, error) {
	if s.path == "" {
		return s.make()
	}
	last := s.current.Load()
	if s.now().Sub(last.checked) < interval {
		return last.token, nil
	}
	s.mu.Lock() // nobody goes on with a token that was not looked at for long
	defer s.mu.Unlock()
	if last = s.current.Load(); s.now().Sub(last.checked) < interval {
		return last.token, nil
	}
	next, err := s.refresh(last)
	if err != nil {
		kept := *last
		kept.checked = s.now()
		s.current.Store(&kept)
		return last.token, nil
	}
	return next.token, nil
}

// refresh reads the file unless it is what it was last.
func (s *Source) refresh(last *read) (*read, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	next := &read{info: info, checked: s.now()}
	if last != nil && os.SameFile(info, last.info) && info.ModTime().Equal(last.info.ModTime()) && info.Size() == last.info.Size() {
		next.token = last.token
	} else if next.token, err = readFile(s.path); err != nil {
		return nil, err
	}
	s.current.Store(next)
	return next, nil
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBytes))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(text))
	if err := check(token); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return token, nil
}

// check returns what is wrong with a token, without it.
func check(token string) error {
	switch {
	case token == "":
		return errors.New("has no token; make one with: bucketring auth token")
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("must have one token, of ASCII without spaces, because it is sent in a header")
	}
	return nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (s *Source) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	header, err := s.Header()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": header}, nil
}

// Header returns the value of Authorization.
func (s *Source) Header() (string, error) {
	token, err := s.Token()
	return "Bearer " + token, err
}

// RequireTransportSecurity implements credentials.PerRPCCredentials. Clients refuse
// plaintext to other machines themselves.
func (s *Source) RequireTransportSecurity() bool { return false }
