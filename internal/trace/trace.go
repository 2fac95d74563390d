// SPDX-License-Identifier: Apache-2.0

// Package trace has an hour of recorded LLM calls: 19,366 conversations of the
// Azure LLM inference trace of 2023. See README.md for the source and the licence.
package trace

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

//go:embed azure-llm-2023-conv.csv.gz
var compressed []byte

// Call is one row of the trace.
type Call struct {
	Row             int           // from 0
	Offset          time.Duration // since the first call; never decreases
	ContextTokens   int64
	GeneratedTokens int64
}

// Load returns every call, in order of arrival.
func Load() ([]Call, error) {
	zr, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("open the trace: %w", err)
	}
	return parse(zr)
}

// timeLayout is the layout of the TIMESTAMP column, with seven digits of fraction.
const timeLayout = "2006-01-02 15:04:05.9999999"

func parse(r io.Reader) ([]Call, error) {
	rows := csv.NewReader(r)
	rows.FieldsPerRecord = 3
	rows.ReuseRecord = true
	if _, err := rows.Read(); err != nil {
		return nil, fmt.Errorf("read the trace's header: %w", err)
	}
	var calls []Call
	var first time.Time
	for {
		fields, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return calls, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the trace: %w", err)
		}
		at, err := time.Parse(timeLayout, fields[0])
		if err != nil {
			return nil, fmt.Errorf("read row %d of the trace: %w", len(calls), err)
		}
		if len(calls) == 0 {
			first = at
		}
		call := Call{Row: len(calls), Offset: at.Sub(first)}
		if call.ContextTokens, err = strconv.ParseInt(fields[1], 10, 64); err != nil {
			return nil, fmt.Errorf("read row %d of the trace: %w", len(calls), err)
		}
		if call.GeneratedTokens, err = strconv.ParseInt(fields[2], 10, 64); err != nil {
			return nil, fmt.Errorf("read row %d of the trace: %w", len(calls), err)
		}
		calls = append(calls, call)
	}
}
