// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/internal/config"
)

// clusterKeys holds the keys of the cluster key file as they were last applied.
type clusterKeys struct {
	path string // "": none
	keys atomic.Pointer[[][]byte]
	mu   sync.Mutex // held to change keys
}

func readClusterKeys(path string) (*clusterKeys, error) {
	k := &clusterKeys{path: path}
	k.keys.Store(&[][]byte{})
	if path == "" {
		return k, nil
	}
	keys, err := config.ReadKeys(path)
	if err != nil {
		return nil, err
	}
	k.keys.Store(&keys)
	return k, nil
}

// current returns the keys, the one to use first. The caller must not modify them.
func (k *clusterKeys) current() [][]byte { return *k.keys.Load() }

// reload reads the file and updates the keys of gossip in the order add, use,
// remove, so that the key in use is always accepted. It reports whether the keys
// changed. An invalid file changes nothing.
func (k *clusterKeys) reload(c *cluster.Cluster) (changed bool, err error) {
	if k.path == "" {
		return false, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	keys, err := config.ReadKeys(k.path)
	if err != nil {
		return false, err
	}
	old := k.current()
	if slices.EqualFunc(old, keys, bytes.Equal) {
		return false, nil
	}
	for _, key := range keys {
		if !contains(old, key) {
			if err := c.AddKey(key); err != nil {
				return false, err
			}
		}
	}
	if !bytes.Equal(old[0], keys[0]) {
		if err := c.UseKey(keys[0]); err != nil {
			return false, err
		}
	}
	k.keys.Store(&keys)
	var problems []error
	for _, key := range old {
		if !contains(keys, key) {
			problems = append(problems, c.RemoveKey(key))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return true, fmt.Errorf("%w; the key is still accepted", err)
	}
	return true, nil
}

func contains(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}
