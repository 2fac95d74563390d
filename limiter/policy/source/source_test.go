// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log is a buffer for concurrent use.
type log struct {
	mu struct {
		sync.Mutex
		text bytes.Buffer
	}
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.text.Write(p)
}

func (l *log) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.mu.text.String(), s)
}

// start runs a store for path until the test ends.
func start(t *testing.T, path string, o Options) (*Store, *log) {
	t.Helper()
	out := &log{}
	o.Path, o.Catalog, o.Logger = path, limiter.NewCatalog(), slog.New(slog.NewTextHandler(out, nil))
	if o.Debounce == 0 {
		o.Debounce = 10 * time.Millisecond
	}
	if o.Poll == 0 {
		o.Poll = time.Hour // events only
	}
	s, err := New(o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	done := make(chan error, 1) // the result of Run
	go func() { done <- s.Run(t.Context()) }()
	t.Cleanup(func() { // the context is done
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		case <-time.After(waittest.Limit):
			t.Error("Run does not return")
		}
	})
	return s, out
}

// tokens returns the tokens per minute of tier free, 0 if it has none.
func tokens(s *Store) int64 {
	var plan limiter.Plan
	if err := s.Current().Resolve(limiter.Time{}, "k", "free", "", &plan); err != nil {
		return 0
	}
	return plan.Levels[0].Limits.Limits()[0].Amount
}

func waitTokens(t *testing.T, s *Store, want int64) {
	t.Helper()
	waittest.Until(t, fmt.Sprintf("policy with %d tokens", want), func() bool { return tokens(s) == want })
}

func text(tokens int) string {
	return fmt.Sprintf("tiers:\n  free: { tokens: %d/min }\n", tokens)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// replace writes a file atomically.
func replace(t *testing.T, path, content string) {
	t.Helper()
	write(t, path+".tmp", content)
	check(t, os.Rename(path+".tmp", path))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDefault(t *testing.T) {
	s, _ := start(t, "", Options{})
	if got, want := s.Current().Digest(), policy.Default(limiter.NewCatalog()).Digest(); got != want {
		t.Errorf("Current().Digest() = %s, want the default's %s", got, want)
	}
	if err := s.Reload(); err != nil {
		t.Errorf("Reload() = %v, want nil", err)
	}
	if st := s.Status(); st.Path != "" || st.Version == "" || st.LoadedAt.IsZero() {
		t.Errorf("Status() = %+v, want a version and a time", st)
	}
}

func TestNewRejectsBadFiles(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	write(t, bad, "tiers: { free: { token: 1/min } }")
	empty := filepath.Join(dir, "empty")
	check(t, os.Mkdir(empty, 0o755))
	for path, want := range map[string]string{
		bad:                          bad + `:1:18: unknown key "token"`,
		empty:                        "no *.yaml files",
		filepath.Join(dir, "absent"): "no such file",
	} {
		_, err := New(Options{Path: path, Catalog: limiter.NewCatalog()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%s) = %v, want %q", path, err, want)
		}
	}
	if _, err := New(Options{Debounce: -1, Poll: -1}); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("New(bad options) = %v, want three problems", err)
	}
}

func TestEditInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, text(1))
	s, out := start(t, path, Options{})
	write(t, path, text(2))
	waitTokens(t, s, 2)
	waittest.Until(t, "log of the change", func() bool { return out.count("tier free: tokens 1/1m -> 2/1m") == 1 })
	if st := s.Status(); st.Reloads == 0 || st.LastError != "" || st.Digest != s.Current().Digest() {
		t.Errorf("Status() = %+v, want a reload and no error", st)
	}
}

func TestAtomicRename(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, text(1))
	s, _ := start(t, path, Options{})
	for n := 2; n < 5; n++ {
		replace(t, path, text(n))
		waitTokens(t, s, int64(n))
	}
}

// kubernetes updates a ConfigMap volume like the kubelet: it writes a new directory and
// then renames the ..data symlink.
func kubernetes(t *testing.T, dir, version, content string) {
	t.Helper()
	check(t, os.Mkdir(filepath.Join(dir, ".."+version), 0o755))
	write(t, filepath.Join(dir, ".."+version, "policy.yaml"), content)
	check(t, os.Symlink(".."+version, filepath.Join(dir, "..data_tmp")))
	old, _ := os.Readlink(filepath.Join(dir, "..data"))
	check(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	if old == "" {
		check(t, os.Symlink("..data/policy.yaml", filepath.Join(dir, "policy.yaml")))
		return
	}
	check(t, os.RemoveAll(filepath.Join(dir, old)))
}

func TestConfigMap(t *testing.T) {
	for _, mount := range []string{"directory", "file"} {
		t.Run(mount, func(t *testing.T) {
			dir := t.TempDir()
			kubernetes(t, dir, "v1", text(1))
			path := dir
			if mount == "file" {
				path = filepath.Join(dir, "policy.yaml")
			}
			s, _ := start(t, path, Options{})
			for n := 2; n < 5; n++ {
				kubernetes(t, dir, fmt.Sprintf("v%d", n), text(n))
				waitTokens(t, s, int64(n))
			}
		})
	}
}

func TestSymlinkToAnotherDirectory(t *testing.T) {
	link, target := filepath.Join(t.TempDir(), "policy.yaml"), filepath.Join(t.TempDir(), "a.yaml")
	write(t, target, text(1))
	check(t, os.Symlink(target, link))
	s, _ := start(t, link, Options{})
	write(t, target, text(2)) // behind the link
	waitTokens(t, s, 2)
	other := filepath.Join(t.TempDir(), "b.yaml")
	write(t, other, text(3))
	check(t, os.Symlink(other, link+".tmp"))
	check(t, os.Rename(link+".tmp", link)) // the link itself
	waitTokens(t, s, 3)
	waittest.Until(t, "watch behind the new link", func() bool {
		write(t, other, text(4)) // again, until the new directory is watched
		return tokens(s) == 4
	})
}

func TestBadFileChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, text(1))
	s, out := start(t, path, Options{})
	before := s.Current()
	replace(t, path, "tiers:\n  free: { token: 2/min }\n")
	waittest.Until(t, "failure", func() bool { return s.Status().Failures == 1 })
	waittest.Until(t, "log of the problem", func() bool { return out.count("unknown key") == 1 })
	if s.Current() != before {
		t.Error("a bad file changed the policy")
	}
	st := s.Status()
	if !strings.Contains(st.LastError, path+":2:11") || st.LastErrorAt.IsZero() || st.Reloads != 0 {
		t.Errorf("Status() = %+v, want the problem's position", st)
	}
	replace(t, path, text(3))
	waitTokens(t, s, 3)
	if got := out.count("policy not reloaded"); got != 1 {
		t.Errorf("logged %d failures, want 1", got)
	}
	if st := s.Status(); st.LastError != "" || st.LastErrorAt.IsZero() || st.Reloads != 1 {
		t.Errorf("Status() = %+v, want no error, and the time of the last one", st)
	}
}

func TestDeletedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, text(1))
	s, _ := start(t, path, Options{})
	check(t, os.Remove(path))
	waittest.Until(t, "failure", func() bool { return strings.Contains(s.Status().LastError, "no such file") })
	if got := tokens(s); got != 1 {
		t.Errorf("tokens = %d after the file was deleted, want 1", got)
	}
	write(t, path, text(1)) // as it was
	waittest.Until(t, "recovery", func() bool { return s.Status().LastError == "" })
	write(t, path, text(2))
	waitTokens(t, s, 2)
}

func TestDirectoryOfFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), text(1))
	write(t, filepath.Join(dir, ".hidden.yaml"), "not yaml: [")
	write(t, filepath.Join(dir, "notes.txt"), "not yaml: [")
	s, _ := start(t, dir, Options{})
	write(t, filepath.Join(dir, "b.yaml"), "tiers: { gold: { tokens: 9/min } }\ndefault_tier: gold\n")
	waittest.Until(t, "tier gold", func() bool { return s.Current().DefaultTier() == "gold" })
	check(t, os.Remove(filepath.Join(dir, "b.yaml")))
	waittest.Until(t, "end of tier gold", func() bool { return s.Current().DefaultTier() == "" })
}

// TestDirectoryWithUnreadFiles checks that a file which looks like a part of the policy is
// not left out in silence, at the start and later.
func TestDirectoryWithUnreadFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), text(1))
	s, _ := start(t, dir, Options{})
	for _, name := range []string{"b.yml", "b.json", "B.YAML"} {
		path := filepath.Join(dir, name)
		write(t, path, text(2))
		want := path + ": is not read"
		waittest.Until(t, name, func() bool { return strings.Contains(s.Status().LastError, want) })
		if got := tokens(s); got != 1 {
			t.Errorf("tokens = %d with %s, want 1 as before", got, name)
		}
		if _, err := New(Options{Path: dir, Catalog: limiter.NewCatalog()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New with %s = %v, want %q", name, err, want)
		}
		check(t, os.Remove(path))
		waittest.Until(t, "recovery", func() bool { return s.Status().LastError == "" })
	}
}

func TestDirectoryReplaced(t *testing.T) {
	// The parent of the file is deleted and made again, which only the poll notices.
	dir := filepath.Join(t.TempDir(), "etc")
	path := filepath.Join(dir, "policy.yaml")
	check(t, os.Mkdir(dir, 0o755))
	write(t, path, text(1))
	s, _ := start(t, path, Options{Poll: 5 * time.Millisecond})
	check(t, os.RemoveAll(dir))
	waittest.Until(t, "failure", func() bool { return s.Status().LastError != "" })
	check(t, os.Mkdir(dir, 0o755))
	write(t, path, text(2))
	waitTokens(t, s, 2)
}

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, text(1))
	var versions []uint64
	s, err := New(Options{Path: path, Catalog: limiter.NewCatalog(), OnChange: func(p *policy.Policy) { versions = append(versions, p.Version()) }})
	check(t, err)
	first := s.Current().Version()
	check(t, s.Reload()) // unchanged files are a success
	write(t, path, text(2))
	check(t, s.Reload())
	if got := tokens(s); got != 2 {
		t.Errorf("tokens = %d after Reload, want 2", got)
	}
	write(t, path, "tiers: {}")
	var problems policy.Problems
	if err := s.Reload(); !errors.As(err, &problems) {
		t.Errorf("Reload() = %v, want Problems", err)
	}
	if st := s.Status(); st.Reloads != 2 || st.Failures != 1 || tokens(s) != 2 {
		t.Errorf("Status() = %+v with %d tokens, want 2 reloads, 1 failure and the policy kept", st, tokens(s))
	}
	if want := []uint64{first, s.Current().Version()}; !slices.Equal(versions, want) {
		t.Errorf("OnChange was called with versions %x, want %x: one for each success", versions, want)
	}
}

func TestConcurrentReloads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, text(1))
	s, _ := start(t, path, Options{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				if err := s.Reload(); err != nil {
					t.Errorf("Reload() = %v", err)
				}
				_, _ = s.Current().Tiers(), s.Status()
			}
		})
	}
	wg.Wait()
	if got := s.Status().Reloads; got != 80 {
		t.Errorf("Reloads = %d, want 80", got)
	}
}
