// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/keypath"
)

// MaxKeyBytes is the length of the longest key.
const MaxKeyBytes = 256

// ValidateKey returns an error unless key has 1 to [MaxLevels] segments, none of
// them empty, and is 1 to [MaxKeyBytes] bytes of printable UTF-8. A space is
// printable; other white space is not. The engine does not validate keys itself.
func ValidateKey(key string) error {
	switch {
	case key == "":
		return errors.New("must not be empty")
	case len(key) > MaxKeyBytes:
		return fmt.Errorf("must be at most %d bytes", MaxKeyBytes)
	}
	for i := range len(key) {
		if c := key[i]; c < ' ' || c > '~' {
			if err := validateText(key); err != nil {
				return err
			}
			break
		}
	}
	switch {
	case strings.HasPrefix(key, keypath.Separator), strings.HasSuffix(key, keypath.Separator), strings.Contains(key, "//"):
		return errors.New("segments must not be empty")
	case strings.Count(key, keypath.Separator) >= MaxLevels:
		return fmt.Errorf("must have at most %d segments", MaxLevels)
	}
	return nil
}

// validateText returns an error unless s is printable UTF-8.
func validateText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("must be valid UTF-8")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("must be printable")
	}
	return nil
}
