// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxDocumentBytes bounds the documents that Read accepts. A day with an interval per
// second is about 20 MB.
const maxDocumentBytes = 256 << 20

// VersionError reports a document of an unsupported format version.
type VersionError struct{ Got int }

// Error returns a message with both versions.
func (e *VersionError) Error() string {
	if e.Got > FormatVersion {
		return fmt.Sprintf("format_version %d is newer than this program, which reads version %d; update the program", e.Got, FormatVersion)
	}
	return fmt.Sprintf("unknown format_version %d; this program reads version %d", e.Got, FormatVersion)
}

// Write validates the run and writes it as JSON. It sets the format version.
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

// Read reads and validates a document. It fails with a [VersionError] for another format
// version, and with an error that names the field for unknown fields and invalid values.
func Read(from io.Reader) (*Run, error) {
	data, err := io.ReadAll(io.LimitReader(from, maxDocumentBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read run: %w", err)
	}
	if len(data) > maxDocumentBytes {
		return nil, fmt.Errorf("read run: larger than %d MiB", maxDocumentBytes>>20)
	}
	// The version first: another version has other fields.
	var head struct {
		FormatVersion *int `json:"format_version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("read run: not a document of bucketring bench: %w", err)
	}
	if head.FormatVersion == nil {
		return nil, errors.New("read run: not a document of bucketring bench: format_version is missing")
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
