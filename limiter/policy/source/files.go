// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"

	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/internal/pause"
	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter/policy"
)

// files keeps the policy of a file or a directory, or the built-in one.
type files struct {
	path   string
	loader *filewatch.Loader[policy.Policy]
}

func newFiles(o Options) (*files, error) {
	s := &files{path: o.Path}
	var err error
	s.loader, err = filewatch.Load(filewatch.Options[policy.Policy]{
		Path: o.Path, Large: true, What: "policy", Logger: o.Logger, Debounce: o.Debounce, Poll: o.Poll,
		Parse: func(files []yamldoc.File) (*policy.Policy, error) {
			switch {
			case o.Path == "":
				return policy.Default(o.Catalog), nil
			case s.loader == nil: // at the start, when there are no calls yet
				return policy.ParseFiles(files, o.Catalog)
			}
			return policy.ParseFilesSlowly(files, o.Catalog, pause.Half())
		},
		OnReload: func(old, p *policy.Policy) {
			logChange(o.Logger, o.Path, old, p)
			if o.OnChange != nil {
				o.OnChange(p)
			}
		},
		OnError: func(err error) { o.Logger.Error("policy not reloaded", filewatch.LogAttrs(s.path, err)...) },
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *files) Current() *policy.Policy { return s.loader.Current() }

func (s *files) Status() Status {
	status, p := s.loader.Status()
	return Status{Status: status, Digest: p.Digest(), Version: p.VersionString()}
}

func (s *files) Reload() error { return s.loader.Reload() }

func (s *files) Run(ctx context.Context) error {
	s.loader.Run(ctx)
	return nil
}

func (s *files) Name() string { return s.path }

func (s *files) close() {}
