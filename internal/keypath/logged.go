// SPDX-License-Identifier: Apache-2.0

package keypath

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/bucketring/bucketring/internal/text"
)

// maxLogged bounds the bytes of a key in a log line.
const maxLogged = 100

// A LogForm is how the lines of a log name keys. The zero value is LogHash.
type LogForm uint8

// The forms.
const (
	LogHash  LogForm = iota // by a hash, which is the same in all processes
	LogPlain                // as they are
)

// Field returns the name and the value of the field of a line that names a key.
func (f LogForm) Field(key string) (name, value string) {
	if f == LogPlain {
		return "key", text.Shorten(key, maxLogged)
	}
	sum := sha256.Sum256([]byte(key))
	return "key_hash", hex.EncodeToString(sum[:8])
}

// ErrorText returns the text of an error of a client, which names the key of the call as in
// "settle acme/alice: ...", with the key in the form.
func (f LogForm) ErrorText(err error, key string) string {
	if f == LogPlain || key == "" {
		return err.Error()
	}
	_, hash := f.Field(key)
	return strings.ReplaceAll(err.Error(), " "+key+": ", " "+hash+": ")
}
