// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// ReadKeys reads a cluster key file: one key per line in base64, the primary key
// first. It ignores empty lines and text after a #. The error joins a problem for
// each invalid line, and contains no part of a key.
func ReadKeys(path string) ([][]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cluster_key_file: %w", err)
	}
	var keys [][]byte
	var lines []int // line numbers of keys
	var problems []error
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		word, _, _ := strings.Cut(line, "#")
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		key, err := decodeKey(word)
		if err == nil {
			if i := slices.IndexFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) }); i >= 0 {
				err = fmt.Errorf("repeats the key of line %d", lines[i])
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("cluster_key_file: %s:%d: %w", path, n, err))
			continue
		}
		keys, lines = append(keys, key), append(lines, n)
	}
	if len(keys) == 0 && len(problems) == 0 {
		problems = append(problems, fmt.Errorf("cluster_key_file: %s: has no key; make one with: head -c 32 /dev/urandom | base64", path))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return keys, nil
}

func decodeKey(word string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(word)
	if err != nil {
		return nil, errors.New("must be a key in base64; make one with: head -c 32 /dev/urandom | base64")
	}
	switch len(key) {
	case 16, 24, 32:
		return key, nil
	}
	return nil, fmt.Errorf("must be a key of 16, 24 or 32 bytes, got %d", len(key))
}
