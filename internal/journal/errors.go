// SPDX-License-Identifier: Apache-2.0

package journal

import "fmt"

// DamageError means that a file is not what a journal wrote. Nothing was changed on disk
// when it is made; [Open] then keeps the file aside and says so.
type DamageError struct {
	File    string
	Offset  int64 // of the first byte that is wrong
	Problem string
	Aside   string // what Open has done, and what to do
}

// Error implements error.
func (e *DamageError) Error() string {
	text := fmt.Sprintf("%s: corrupt at byte %d: %s", e.File, e.Offset, e.Problem)
	if e.Aside != "" {
		text += "; " + e.Aside
	}
	return text
}

// VersionError means that another version of this program wrote a file. Open leaves all
// files as they are.
type VersionError struct {
	File    string
	Version int
}

// Error implements error.
func (e *VersionError) Error() string {
	return fmt.Sprintf("%s: byte %d: written by another version of bucketring (format %d, want %d): run that version, or move all files out of the directory to start without their usage",
		e.File, len(product), e.Version, version)
}
