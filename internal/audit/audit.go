// SPDX-License-Identifier: Apache-2.0

// Package audit keeps the audit log: what operators have changed, and tried to change, as
// lines of JSON.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
)

// Entry is one line.
type Entry struct {
	// Time is when the line was written, in RFC 3339 with nanoseconds, in UTC.
	Time string `json:"time"`
	// Action is reset, grant, end, reload, drain or forget, and of refused callers also
	// inspect or profile.
	Action string `json:"action"`
	// Result is started before a change; then done, replayed (an earlier change with the
	// same request id was, and nothing was changed now), refused (nothing was changed),
	// unknown (no answer came in time), or pending (the members have not agreed yet).
	Result string `json:"result"`
	// Caller is who asked, as far as it is known: an address, after the name of the caller
	// if there is one.
	Caller string `json:"caller"`
	// Member is the node that was asked.
	Member      string  `json:"member"`
	Key         string  `json:"key,omitempty"`
	Tier        string  `json:"tier,omitempty"`
	Model       string  `json:"model,omitempty"`
	Limit       string  `json:"limit,omitempty"` // as asked for
	Amount      int64   `json:"amount,omitempty"`
	Lasts       int64   `json:"lasts_seconds,omitempty"`
	Reservation string  `json:"reservation,omitempty"`
	Charge      string  `json:"charge,omitempty"`
	RequestID   string  `json:"request_id,omitempty"`
	Limits      []Limit `json:"limits,omitempty"` // that were changed
	Status      string  `json:"status,omitempty"` // of the reservation that was ended
	Target      string  `json:"target,omitempty"` // the member that is forgotten
	Force       bool    `json:"force,omitempty"`  // without votes, if they cannot be had
	Error       string  `json:"error,omitempty"`
	// Omitted is how many lines of refused callers were left out before this one.
	Omitted int64 `json:"omitted,omitempty"`
}

// Limit is what changed in one limit: what was used or, of a grant, left of the credit.
type Limit struct {
	Name   string `json:"name"`
	Scope  string `json:"scope"`
	Before int64  `json:"before"`
	After  int64  `json:"after"`
}

// Log is an audit log. It is safe for concurrent use.
type Log struct {
	path string // "": the log of the node
	node *slog.Logger

	mu   sync.Mutex
	file *os.File

	refusedMu sync.Mutex
	refused   refusals // guarded by refusedMu
}

// Open opens the log in a file, which it creates if need be and appends to. If path is "",
// lines go to the log of the node, with audit=true, and lines with the result started are
// left out.
func Open(path string, node *slog.Logger) (*Log, error) {
	l := &Log{path: path, node: node}
	if path == "" {
		return l, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.openLocked(); err != nil {
		return nil, err
	}
	return l, nil
}

// ToFile reports whether the log has a file of its own.
func (l *Log) ToFile() bool { return l.path != "" }

func (l *Log) openLocked() error {
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	l.file = f
	return nil
}

// Write writes a line, and returns when it is on disk. A file that was renamed or removed,
// as programs do that rotate logs, is opened again before that.
func (l *Log) Write(e *Entry) error {
	if l.path == "" {
		l.toNode(e)
		return nil
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode a line of the audit log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.followLocked(); err != nil {
		return err
	}
	if _, err = l.file.Write(append(line, '\n')); err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// followLocked opens the file again if its path leads to another one, or to none.
func (l *Log) followLocked() error {
	if l.file != nil {
		at, err := os.Stat(l.path)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("open the audit log: %w", err)
		case err == nil:
			open, err := l.file.Stat()
			if err == nil && os.SameFile(at, open) {
				return nil
			}
		}
		_ = l.file.Close() // all lines are on disk
		l.file = nil
	}
	return l.openLocked()
}

// Reopen opens the file again.
func (l *Log) Reopen() error {
	if l.path == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close() // all lines are on disk
		l.file = nil
	}
	return l.openLocked()
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// toNode writes a line to the log of the node.
func (l *Log) toNode(e *Entry) {
	if e.Result == "started" {
		return
	}
	attrs := []slog.Attr{slog.Bool("audit", true), slog.String("action", e.Action), slog.String("result", e.Result), slog.String("caller", e.Caller)}
	for _, a := range [...]struct{ name, value string }{
		{"key", e.Key},
		{"tier", e.Tier},
		{"model", e.Model},
		{"limit", e.Limit},
		{"reservation", e.Reservation},
		{"charge", e.Charge},
		{"request_id", e.RequestID},
		{"status", e.Status},
		{"target", e.Target},
		{"error", e.Error},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.name, a.value))
		}
	}
	if e.Amount != 0 {
		attrs = append(attrs, slog.Int64("amount", e.Amount))
	}
	if e.Force {
		attrs = append(attrs, slog.Bool("force", true))
	}
	if e.Omitted != 0 {
		attrs = append(attrs, slog.Int64("omitted", e.Omitted))
	}
	if len(e.Limits) > 0 {
		attrs = append(attrs, slog.Any("limits", e.Limits))
	}
	level := slog.LevelInfo
	if e.Result == "refused" || e.Result == "unknown" {
		level = slog.LevelWarn
	}
	l.node.LogAttrs(context.Background(), level, "administration", attrs...)
}
