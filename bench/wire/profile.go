// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"

	"golang.org/x/sync/errgroup"
)

// profileSelf writes a CPU profile of this process until it is stopped.
func (b *run) profileSelf() (stop func() error, err error) {
	if b.o.Profiles == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(filepath.Join(b.o.Profiles, "client.pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// profileNodes writes CPU profiles of the nodes of a row, while it is measured. Nodes measure
// whole seconds.
func (b *run) profileNodes(ctx context.Context, r *row) (wait func() error) {
	if b.o.Profiles == "" || r.server == nil {
		return func() error { return nil }
	}
	var g errgroup.Group
	for i, at := range r.server.http {
		name := fmt.Sprintf("%s-%d-callers-node-%d.pprof", strings.NewReplacer(" ", "-", ",", "", "/", "-").Replace(r.name), r.callers, i+1)
		g.Go(func() error {
			return fetch(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", at, max(1, int(b.o.Length.Seconds()))), filepath.Join(b.o.Profiles, name))
		})
	}
	return g.Wait
}

// fetch writes what is at a URL into a file.
func fetch(ctx context.Context, url, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, response.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, response.Body)
	return errors.Join(err, f.Close())
}
