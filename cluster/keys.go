// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"
)

// Gossip keys are rotated in three waves. Each is over when every member shows
// it in its status: [Cluster.AddKey] the new one everywhere, [Cluster.UseKey] it
// everywhere, [Cluster.RemoveKey] the old one everywhere.

var errNoKeys = errors.New("gossip is not encrypted: start with a key")

// newKeyring is nil without keys.
func newKeyring(keys [][]byte) (*memberlist.Keyring, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	ring := &memberlist.Keyring{}
	for _, key := range keys {
		if err := ring.AddKey(bytes.Clone(key)); err != nil {
			return nil, err
		}
	}
	return ring, nil
}

// AddKey makes this node decrypt with a key, too.
func (c *Cluster) AddKey(key []byte) error {
	return c.changeKeys("add", func() error { return c.keyring.AddKey(bytes.Clone(key)) })
}

// UseKey makes this node encrypt with a key, which it must have.
func (c *Cluster) UseKey(key []byte) error {
	return c.changeKeys("use", func() error { return c.keyring.UseKey(key) })
}

// RemoveKey makes this node forget a key, which must not be the one that it
// encrypts with. Of more than two keys, it may encrypt a packet with any of
// them while it does so.
func (c *Cluster) RemoveKey(key []byte) error {
	return c.changeKeys("remove", func() error {
		keys := c.keyring.GetKeys()
		if bytes.Equal(keys[0], key) {
			return errors.New("it encrypts: use another one first")
		}
		// memberlist moves what is behind the removed key, in an array that
		// decryption may be reading. So have nothing behind it.
		last := keys[len(keys)-1]
		if !bytes.Equal(last, key) {
			for _, k := range slices.Backward(keys) {
				if !bytes.Equal(k, key) {
					if err := c.keyring.UseKey(k); err != nil {
						return err
					}
				}
			}
		}
		return c.keyring.RemoveKey(key)
	})
}

func (c *Cluster) changeKeys(verb string, change func() error) error {
	if c.keyring == nil {
		return errNoKeys
	}
	c.keys.Lock()
	defer c.keys.Unlock()
	if err := change(); err != nil {
		return fmt.Errorf("%s gossip key: %w", verb, err)
	}
	return nil
}

// KeyIDs returns fingerprints of the gossip keys, that of the one that encrypts
// first. They can be shown to anybody.
func (c *Cluster) KeyIDs() []ID {
	if c.keyring == nil {
		return nil
	}
	var ids []ID
	for _, key := range c.keyring.GetKeys() {
		sum := sha256.Sum256(key)
		ids = append(ids, ID(binary.BigEndian.Uint64(sum[:])))
	}
	return ids
}
