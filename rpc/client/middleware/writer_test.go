// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// null is a ResponseWriter that discards its input or fails.
type null struct {
	header http.Header
	err    error
	writes [][]byte
	keep   bool
}

func (n *null) Header() http.Header { return n.header }
func (n *null) WriteHeader(int)     {}
func (n *null) Flush()              {}

func (n *null) Write(p []byte) (int, error) {
	if n.err != nil {
		return 0, n.err
	}
	if n.keep {
		n.writes = append(n.writes, slices.Clone(p))
	}
	return len(p), nil
}

// writing returns a writer of a streamed answer.
func writing(t testing.TB, mode DisconnectMode, inner http.ResponseWriter, body string) (w *writer, stopped func() bool) {
	t.Helper()
	q, err := llm.Parse(llm.ChatCompletions, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Rewrite(-1, true)
	m := &Middleware{options: Options{OnDisconnect: mode}}
	ctx, stop := context.WithCancel(t.Context())
	c := &Call{reservation: &client.Reservation{Decision: client.Decision{Outcome: client.Allowed}}}
	a := exchange{w: inner, r: httptest.NewRequest(http.MethodPost, "/v1/chat/completions", nil), dialect: llm.OpenAI}
	return m.newWriter(a, c, q, stop), func() bool { return ctx.Err() != nil }
}

const (
	streamed = `{"model":"m","stream":true,"messages":[{"role":"user","content":"Why?"}]}`
	chunk    = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" sky\"}}]}\n\n"
)

func sse(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/event-stream") }

func TestWritesAreForwardedUnbuffered(t *testing.T) {
	inner := &null{header: http.Header{}, keep: true}
	w, _ := writing(t, ChargeStreamed, inner, streamed)
	sse(w)
	w.Header().Set("Content-Length", "1000") // wrong if a chunk is removed
	for _, piece := range []string{chunk, chunk[:20], chunk[20:], ": comment\n\n"} {
		if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Errorf("Write(%q) = %d, %v, want %d", piece, n, err, len(piece))
		}
	}
	want := []string{chunk, chunk, ": comment\n\n"} // half an event is held back, because it may be removed
	var got []string
	for _, p := range inner.writes {
		got = append(got, string(p))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the caller got %q, want %q", got, want)
	}
	if inner.header.Get("Content-Length") != "" {
		t.Error("the response has the Content-Length of the handler")
	}
	if got := w.call.output.Load(); got != 2 {
		t.Errorf("%d tokens were counted, want 2", got)
	}
}

func TestWritesAfterDisconnect(t *testing.T) {
	reset := errors.New("connection reset")
	for mode, want := range map[DisconnectMode]error{ChargeStreamed: reset, Drain: nil} {
		t.Run(mode.String(), func(t *testing.T) {
			w, stopped := writing(t, mode, &null{header: http.Header{}, err: reset}, streamed)
			sse(w)
			for range 2 {
				if _, err := w.Write([]byte(chunk)); !errors.Is(err, want) {
					t.Errorf("Write() = %v, want %v", err, want)
				}
			}
			if stopped() != (mode == ChargeStreamed) {
				t.Errorf("the model was stopped: %v", stopped())
			}
			if err := w.FlushError(); mode == Drain && err != nil {
				t.Errorf("Flush() = %v, want nil", err)
			}
			e := w.ending(true)
			if e.outputGuess != 3 || e.incomplete != (mode == ChargeStreamed) {
				t.Errorf("ending() = %+v, want 3 tokens for 8 bytes", e)
			}
		})
	}
}

// Write errors that the handler has caused do not count as a disconnect.
func TestHandlerWriteErrors(t *testing.T) {
	w, stopped := writing(t, ChargeStreamed, &null{header: http.Header{}, err: http.ErrContentLength}, streamed)
	if _, err := w.Write([]byte(chunk)); !errors.Is(err, http.ErrContentLength) || w.broken || stopped() {
		t.Errorf("Write() = %v, broken %v, want ErrContentLength and an intact connection", err, w.broken)
	}
}

func TestWriterIsAResponseWriter(t *testing.T) {
	inner := httptest.NewRecorder()
	w, _ := writing(t, ChargeStreamed, inner, streamed)
	control := http.NewResponseController(w)
	if w.Unwrap() != inner {
		t.Error("Unwrap() is another writer")
	}
	if _, _, err := control.Hijack(); !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("Hijack() = %v, want ErrNotSupported", err)
	}
	w.WriteHeader(http.StatusEarlyHints)
	if w.status != 0 || w.Header().Get(headerRequestID) != "" {
		t.Error("the answer began with early hints")
	}
	if err := control.Flush(); err != nil || !inner.Flushed || w.status != 200 {
		t.Errorf("Flush() = %v, want the header to be sent", err)
	}
}

func TestWriteDoesNotAllocate(t *testing.T) {
	w, _ := writing(t, ChargeStreamed, &null{header: http.Header{}}, streamed)
	sse(w)
	piece := []byte(chunk)
	if allocated := testing.AllocsPerRun(1000, func() {
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
		w.Flush()
	}); allocated != 0 {
		t.Errorf("a chunk costs %v allocations, want none", allocated)
	}
}

// BenchmarkWrite measures writing and flushing one chunk of a stream.
func BenchmarkWrite(b *testing.B) {
	for name, body := range map[string]string{
		"metered": streamed,
		"passed":  "",
	} {
		b.Run(name, func(b *testing.B) {
			inner := &null{header: http.Header{}}
			w, _ := writing(b, ChargeStreamed, inner, streamed)
			if body == "" {
				w.request = nil
			}
			sse(w)
			piece := []byte(chunk)
			b.SetBytes(int64(len(piece)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Write(piece); err != nil {
					b.Fatal(err)
				}
				w.Flush()
			}
		})
	}
}
