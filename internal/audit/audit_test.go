// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func entry(id string) *Entry {
	return &Entry{
		Time: "2026-11-29T03:00:00.5Z", Action: "reset", Result: "done", Caller: "127.0.0.1:4", Member: "n1", Key: "acme/alice", Limit: "tokens", RequestID: id,
		Limits: []Limit{{Name: "tokens", Scope: "acme/alice", Before: 700, After: 0}},
	}
}

const line = `{"time":"2026-11-29T03:00:00.5Z","action":"reset","result":"done","caller":"127.0.0.1:4","member":"n1","key":"acme/alice","limit":"tokens","request_id":"a","limits":[{"name":"tokens","scope":"acme/alice","before":700,"after":0}]}` + "\n"

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestLinesAndRotation writes lines to a file that is renamed, removed and replaced between
// them, as programs do that rotate logs.
func TestLinesAndRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	write := func(id string) {
		t.Helper()
		if err := l.Write(entry(id)); err != nil {
			t.Fatalf("Write(%s) = %v", id, err)
		}
	}
	write("a")
	if got := read(t, path); got != line {
		t.Errorf("the line is\n%s, want\n%s", got, line)
	}
	if at, err := os.Stat(path); err != nil || at.Mode().Perm() != 0o600 {
		t.Errorf("the mode of the file is %v, %v, want 0600", at.Mode(), err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("b")
	if got := read(t, path+".1"); got != line {
		t.Errorf("the renamed file has\n%s", got)
	}
	if got := read(t, path); !strings.Contains(got, `"request_id":"b"`) || strings.Count(got, "\n") != 1 {
		t.Errorf("the new file has\n%s", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write("c")
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	write("d")
	if got := read(t, path); strings.Count(got, "\n") != 2 {
		t.Errorf("after a removal and Reopen the file has\n%s", got)
	}
	again, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Write(entry("e")); err != nil || strings.Count(read(t, path), "\n") != 3 {
		t.Errorf("a file that exists was not appended to: %v", err)
	}
}

// TestLogThatCannotBeWritten loses the directory of the file, and gets it back.
func TestLogThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if _, err := Open(filepath.Join(dir, "audit.log"), nil); err == nil || !strings.Contains(err.Error(), "open the audit log") {
		t.Fatalf("Open in a directory that does not exist = %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Open(filepath.Join(dir, "audit.log"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Write(entry("a")); err == nil {
			t.Error("Write without a directory = nil, want an error")
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(entry("b")); err != nil {
		t.Errorf("Write after the directory is back = %v", err)
	}
}

func TestLinesInTheLogOfTheNode(t *testing.T) {
	var b bytes.Buffer
	l, err := Open("", slog.New(slog.NewJSONHandler(&b, nil)))
	if err != nil || l.ToFile() {
		t.Fatalf("Open without a file = %v", err)
	}
	started := entry("a")
	started.Result = "started"
	refused := entry("b")
	refused.Result, refused.Error, refused.Limits = "refused", "no", nil
	for _, e := range []*Entry{started, entry("a"), refused} {
		if err := l.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("the log has\n%s, want two lines", b.String())
	}
	for i, want := range []string{
		`"level":"INFO","msg":"administration","audit":true,"action":"reset","result":"done","caller":"127.0.0.1:4","key":"acme/alice","limit":"tokens","request_id":"a","limits":[{"name":"tokens","scope":"acme/alice","before":700,"after":0}]}`,
		`"level":"WARN","msg":"administration","audit":true,"action":"reset","result":"refused","caller":"127.0.0.1:4","key":"acme/alice","limit":"tokens","request_id":"b","error":"no"}`,
	} {
		if !strings.HasSuffix(lines[i], want) {
			t.Errorf("line %d is\n%s, want\n%s", i+1, lines[i], want)
		}
	}
}

// TestRefusedAreBounded floods the log from one address, and from many.
func TestRefusedAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	now, omitted := time.Unix(1e9, 0), 0
	write := func(address netip.Addr) {
		t.Helper()
		left, err := l.WriteRefused(entry("a"), address, now)
		if err != nil {
			t.Fatal(err)
		}
		if left {
			omitted++
		}
	}
	wantLines := func(lines int) {
		t.Helper()
		if got := strings.Count(read(t, path), "\n"); got != lines {
			t.Errorf("the log has %d lines, want %d", got, lines)
		}
	}
	one := netip.MustParseAddr("10.0.0.1")
	for range 100 {
		write(one)
	}
	wantLines(60)
	write(netip.MustParseAddr("10.0.0.2"))
	if got := read(t, path); !strings.HasSuffix(got, `,"omitted":40}`+"\n") || omitted != 40 {
		t.Errorf("%d were left out, want 40, and the next line to say so", omitted)
	}
	for i := range 1000 {
		write(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	wantLines(600)
	if n := len(l.refused.byAddress); n > 600 {
		t.Errorf("%d addresses are kept, want at most 600", n)
	}
	if err := l.Write(entry("b")); err != nil { // changes are always written
		t.Error(err)
	}
	now = now.Add(time.Minute)
	write(one)
	wantLines(602)
	if got := read(t, path); !strings.HasSuffix(got, `,"omitted":461}`+"\n") {
		t.Errorf("the last line is %s, want it to say that 461 were left out", got[len(got)-100:])
	}
}
