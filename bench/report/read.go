// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxDocument bounds what Read takes: a day at one interval per second is
// about 20 MB.
const maxDocument = 256 << 20

// VersionError is a document of a format that this package does not read.
type VersionError struct{ Got int }

// Error names both versions.
func (e *VersionError) Error() string {
	if e.Got > FormatVersion {
		return fmt.Sprintf("format_version %d is newer than this program, which reads version %d: update it", e.Got, FormatVersion)
	}
	return fmt.Sprintf("format_version %d is not known, this program reads version %d", e.Got, FormatVersion)
}

// Write writes the document, after [Run.Validate]. It sets the format version.
func Write(w io.Writer, r *Run) error {
	out := *r
	out.FormatVersion = FormatVersion
	if err := out.Validate(); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	return e.Encode(&out)
}

// Read reads a document and checks it: unknown versions ([VersionError]),
// unknown names, damage and impossible numbers are errors that name what is
// wrong.
func Read(from io.Reader) (*Run, error) {
	data, err := io.ReadAll(io.LimitReader(from, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read run: %w", err)
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("read run: larger than %d MiB", maxDocument>>20)
	}
	// The version first: the names of another one mean nothing to us.
	var head struct {
		FormatVersion *int `json:"format_version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("read run: not a document of bucketring bench: %w", err)
	}
	if head.FormatVersion == nil {
		return nil, errors.New("read run: not a document of bucketring bench: it has no format_version")
	}
	if *head.FormatVersion != FormatVersion {
		return nil, fmt.Errorf("read run: %w", &VersionError{*head.FormatVersion})
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	r := new(Run)
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("read run: %w", err)
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("read run: %w", err)
	}
	return r, nil
}
