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

// Gossip keys are rotated in three rounds: [Cluster.AddKey] the new key on every
// member, [Cluster.UseKey] it on every member, and [Cluster.RemoveKey] the old key
// on every member. A round is complete when the status of every member shows it.

var errNoKeys = errors.New("gossip is not encrypted: start the node with a key")

// newKeyring returns nil if there are no keys.
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

// AddKey lets this node decrypt with a further key.
func (c *Cluster) AddKey(key []byte) error {
	return c.changeKeys("add", func() error { return c.keyring.AddKey(bytes.Clone(key)) })
}

// UseKey makes this node encrypt with a key that was added before.
func (c *Cluster) UseKey(key []byte) error {
	return c.changeKeys("use", func() error { return c.keyring.UseKey(key) })
}

// RemoveKey removes a key, which must not be the one that encrypts. If there are
// more than two keys, any of them may encrypt packets during the call.
func (c *Cluster) RemoveKey(key []byte) error {
	return c.changeKeys("remove", func() error {
		keys := c.keyring.GetKeys()
		if bytes.Equal(keys[0], key) {
			return errors.New("it is the key that encrypts: use another one first")
		}
		// memberlist moves the keys after the removed one, in an array that decryption
		// may be reading. So make the removed key the last one first.
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
	c.keysMu.Lock()
	defer c.keysMu.Unlock()
	if err := change(); err != nil {
		return fmt.Errorf("%s gossip key: %w", verb, err)
	}
	return nil
}

// KeyIDs returns fingerprints of the gossip keys, the one that encrypts first.
// They are not secret.
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
