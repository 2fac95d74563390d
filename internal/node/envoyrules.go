// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/rpc/envoy/config"
)

// envoyRules are rules of Envoy's rate limit service in files. As with the policy,
// files that don't compile change nothing.
type envoyRules struct {
	path    string
	log     *slog.Logger
	onRules func(*config.Config)

	// loading makes loads one at a time, and guards attempt: what the last one saw.
	loading sync.Mutex
	attempt string

	mu struct {
		sync.Mutex // held for no I/O
		status     EnvoyRulesStatus
	}
}

// EnvoyRulesStatus is what was loaded from files and how the last attempt went.
type EnvoyRulesStatus struct {
	Path     string    `json:"path"`
	LoadedAt time.Time `json:"loaded_at"` // of the last success
	// LastError is what is wrong with the files now, "" if the last attempt
	// succeeded. LastErrorAt stays.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	Reloads     int64     `json:"reloads"` // successful ones, the first load not counted
	Failures    int64     `json:"failures"`
}

// openEnvoyRules loads rules, which must compile.
func openEnvoyRules(path string, log *slog.Logger, onRules func(*config.Config)) (*envoyRules, error) {
	r := &envoyRules{path: path, log: log, onRules: onRules}
	r.mu.status.Path = path
	if _, err := r.load(true); err != nil {
		return nil, fmt.Errorf("load envoy rules: %w", err)
	}
	r.mu.status.Reloads = 0
	return r, nil
}

// load reads the files and, if they are not as the last load saw them or always is
// set, makes them the rules. It reports whether it did anything.
func (r *envoyRules) load(always bool) (bool, error) {
	r.loading.Lock()
	defer r.loading.Unlock()
	files, err := filewatch.Read(r.path)
	now := fmt.Sprint("failed: ", err)
	if err == nil {
		now = fmt.Sprintf("%x", filewatch.Digest(files))
	}
	if now == r.attempt && !always {
		return false, nil
	}
	r.attempt = now
	var rules *config.Config
	if err == nil {
		sources := make([]config.File, len(files))
		for i, f := range files {
			sources[i] = config.File{Name: f.Name, Source: f.Source}
		}
		rules, err = config.ParseFiles(sources)
	}
	r.mu.Lock()
	if st := &r.mu.status; err != nil {
		st.LastError, st.LastErrorAt = err.Error(), time.Now()
		st.Failures++
	} else {
		st.LastError, st.LoadedAt = "", time.Now()
		st.Reloads++
	}
	r.mu.Unlock()
	if err != nil {
		return true, err
	}
	r.onRules(rules)
	r.log.Info("envoy rules loaded", "path", r.path, "domains", len(rules.Domains()), "rules", len(rules.Rules()), "digest", rules.Digest()[:12])
	return true, nil
}

func (r *envoyRules) status() EnvoyRulesStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.status
}

// run loads rules again when their files change, until ctx is done.
func (r *envoyRules) run(ctx context.Context) {
	filewatch.Run(ctx, filewatch.Options{
		Path: r.path, Logger: r.log, Debounce: 250 * time.Millisecond, Poll: time.Minute,
		Refresh: func() {
			if did, err := r.load(false); did && err != nil {
				r.logFailure(err)
			}
		},
	})
}

func (r *envoyRules) logFailure(err error) {
	var problems config.Problems
	if !errors.As(err, &problems) {
		r.log.Error("envoy rules not reloaded", "path", r.path, "error", err)
		return
	}
	const most = 50
	lines := make([]string, 0, min(len(problems), most))
	for _, p := range problems[:cap(lines)] {
		lines = append(lines, p.String())
	}
	r.log.Error("envoy rules not reloaded", "path", r.path, "count", len(problems), "problems", lines)
}
