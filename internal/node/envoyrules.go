// SPDX-License-Identifier: Apache-2.0

package node

import (
	"log/slog"

	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/rpc/envoy/config"
)

// envoyRules keeps the rules of Envoy's rate limit service up to date with their
// files. Files with problems change nothing.
type envoyRules struct {
	*filewatch.Loader[config.Config]
	path    string
	log     *slog.Logger
	onRules func(*config.Config) // called with each set of rules that is loaded
}

// openEnvoyRules loads rules, which must be valid.
func openEnvoyRules(path string, log *slog.Logger, onRules func(*config.Config)) (*envoyRules, error) {
	r := &envoyRules{path: path, log: log, onRules: onRules}
	var err error
	r.Loader, err = filewatch.Load(filewatch.Options[config.Config]{
		Path: path, All: true, What: "envoy rules", Logger: log, Parse: config.ParseFiles,
		OnReload: func(_, rules *config.Config) { r.loaded(rules) },
		OnError:  r.logFailure,
	})
	if err != nil {
		return nil, err
	}
	r.loaded(r.Current())
	return r, nil
}

func (r *envoyRules) loaded(rules *config.Config) {
	r.onRules(rules)
	r.log.Info("envoy rules loaded", "path", r.path, "domains", len(rules.Domains()), "rules", len(rules.Rules()), "digest", rules.Digest()[:12])
}

func (r *envoyRules) logFailure(err error) {
	r.log.Error("envoy rules not reloaded", filewatch.LogAttrs(r.path, err)...)
}
