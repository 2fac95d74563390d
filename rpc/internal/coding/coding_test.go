// SPDX-License-Identifier: Apache-2.0

package coding

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// An encoder compresses what is written to it.
type encoder interface {
	io.WriteCloser
	Flush() error
}

func encoderOf(t testing.TB, c Coding, w io.Writer, o ...zstd.EOption) encoder {
	t.Helper()
	switch c {
	case Gzip:
		return gzip.NewWriter(w)
	case Deflate:
		return zlib.NewWriter(w)
	}
	z, err := zstd.NewWriter(w, append([]zstd.EOption{zstd.WithEncoderConcurrency(1)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func encode(t testing.TB, text []byte, codings ...Coding) []byte {
	t.Helper()
	for _, c := range codings {
		var b bytes.Buffer
		e := encoderOf(t, c, &b)
		if _, err := e.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		text = b.Bytes()
	}
	return text
}

func rawDeflate(t testing.TB, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(text)
	_ = w.Close()
	return b.Bytes()
}

func decode(source io.Reader, most int64, codings ...Coding) ([]byte, error) {
	r := NewReader(source, Options{Codings: codings, MaxBytes: most})
	defer r.Close()
	return io.ReadAll(r)
}

func TestOf(t *testing.T) {
	for value, want := range map[string][]Coding{
		"": nil, "identity": nil, " , Identity": nil,
		"zstd": {Zstd}, "GZip": {Gzip}, "x-gzip": {Gzip}, "deflate": {Deflate},
		"gzip, zstd": {Gzip, Zstd}, "identity,gzip": {Gzip},
	} {
		got, err := Of(http.Header{"Content-Encoding": {value}})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("Of(%q) = %v, %v, want %v", value, got, err, want)
		}
	}
	if got, err := Of(http.Header{"Content-Encoding": {"gzip", "zstd"}}); err != nil || !slices.Equal(got, []Coding{Gzip, Zstd}) {
		t.Errorf("Of(two values) = %v, %v, want gzip and zstd", got, err)
	}
	for _, value := range []string{"br", "gzip, br", "gzip;q=1", "gzip, gzip, gzip", "compress"} {
		if got, err := Of(http.Header{"Content-Encoding": {value}}); err == nil {
			t.Errorf("Of(%q) = %v, want an error", value, got)
		}
	}
}

func TestReader(t *testing.T) {
	long := []byte(strings.Repeat("The quick brown fox jumps over the lazy dog. ", 5000))
	for _, text := range [][]byte{{}, []byte("a"), long} {
		for name, test := range map[string]struct {
			body    []byte
			codings []Coding
		}{
			"zstd":          {encode(t, text, Zstd), []Coding{Zstd}},
			"gzip":          {encode(t, text, Gzip), []Coding{Gzip}},
			"deflate":       {encode(t, text, Deflate), []Coding{Deflate}},
			"raw deflate":   {rawDeflate(t, text), []Coding{Deflate}},
			"gzip and zstd": {encode(t, text, Gzip, Zstd), []Coding{Gzip, Zstd}},
			"zstd and gzip": {encode(t, text, Zstd, Gzip), []Coding{Zstd, Gzip}},
		} {
			if len(test.body) == 0 {
				continue // the encoder of zstd writes nothing
			}
			for how, source := range map[string]io.Reader{"whole": bytes.NewReader(test.body), "by byte": iotest.OneByteReader(bytes.NewReader(test.body)), "with its end": iotest.DataErrReader(bytes.NewReader(test.body))} {
				got, err := decode(source, 1<<20, test.codings...)
				if err != nil || !bytes.Equal(got, text) {
					t.Errorf("%s, %d bytes, read %s = %d bytes, %v, want the text", name, len(text), how, len(got), err)
				}
			}
		}
	}
	two := append(encode(t, []byte("a"), Gzip), encode(t, []byte("b"), Gzip)...)
	if got, err := decode(bytes.NewReader(two), 100, Gzip); err != nil || string(got) != "ab" {
		t.Errorf("two members of gzip = %q, %v, want ab", got, err)
	}
}

func TestReaderIsBounded(t *testing.T) {
	bomb := make([]byte, 64<<20)
	for name, test := range map[string]struct {
		body    []byte
		codings []Coding
	}{
		"zstd":       {encode(t, bomb, Zstd), []Coding{Zstd}},
		"gzip":       {encode(t, bomb, Gzip), []Coding{Gzip}},
		"deflate":    {encode(t, bomb, Deflate), []Coding{Deflate}},
		"gzip twice": {encode(t, bomb, Gzip, Gzip), []Coding{Gzip, Gzip}},
		// Decodes to nothing, by way of much.
		"empty members": {encode(t, bytes.Repeat(encode(t, nil, Gzip), 100_000), Gzip), []Coding{Gzip, Gzip}},
		"long":          {bytes.Repeat(encode(t, nil, Gzip), 100_000), []Coding{Gzip}},
	} {
		if got, err := decode(bytes.NewReader(test.body), 1<<20, test.codings...); !errors.Is(err, ErrTooLarge) || len(got) > 1<<20 {
			t.Errorf("%s of %d bytes = %d bytes, %v, want ErrTooLarge", name, len(test.body), len(got), err)
		}
	}
	text := []byte(strings.Repeat("ab", 500))
	for _, c := range []Coding{Zstd, Gzip, Deflate} {
		if got, err := decode(bytes.NewReader(encode(t, text, c)), 1000, c); err != nil || len(got) != 1000 {
			t.Errorf("%v of as many bytes as allowed = %d bytes, %v, want 1000", c, len(got), err)
		}
		if _, err := decode(bytes.NewReader(encode(t, text, c)), 999, c); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v of one byte more than allowed = %v, want ErrTooLarge", c, err)
		}
	}
}

func TestReaderRejectsInvalid(t *testing.T) {
	text := []byte(strings.Repeat("The quick brown fox. ", 50))
	var wide bytes.Buffer
	e := encoderOf(t, Zstd, &wide, zstd.WithWindowSize(16<<20))
	for range 3 { // not a single segment
		_, _ = e.Write(text)
		_ = e.Flush()
	}
	_ = e.Close()
	for _, c := range []Coding{Zstd, Gzip, Deflate} {
		whole := encode(t, text, c)
		flipped := slices.Clone(whole)
		flipped[len(flipped)-1] ^= 1
		for name, body := range map[string][]byte{
			"empty": {}, "garbage": []byte(`{"model":"m","messages":[]}`), "cut": whole[:len(whole)-1], "header only": whole[:4],
			"more bytes": append(slices.Clone(whole), "xyz"...), "another checksum": flipped,
		} {
			_, err := decode(bytes.NewReader(body), 1<<20, c)
			if invalid, ok := errors.AsType[*InvalidError](err); !ok || invalid.Coding != c {
				t.Errorf("%v, %s = %v, want an InvalidError", c, name, err)
			}
		}
	}
	if _, err := decode(&wide, 1<<20, Zstd); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("a window of 16 MiB = %v, want ErrWindowSizeExceeded", err)
	}
}

// The error of the source is returned as it is, so that a timeout is not called invalid.
func TestReaderReturnsErrorOfSource(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []Coding{Zstd, Gzip, Deflate} {
		whole := encode(t, []byte(strings.Repeat("The quick brown fox. ", 50)), c)
		for _, n := range []int{0, 1, 5, len(whole) / 2, len(whole)} {
			source := io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken))
			if _, err := decode(source, 1<<20, c); !errors.Is(err, broken) {
				t.Errorf("%v after %d bytes = %v, want the error of the source", c, n, err)
			}
		}
	}
}

// The memory of a decoder is that of the window that the body asks for.
func TestReaderReservesMemory(t *testing.T) {
	window := func(size int) []byte {
		var b bytes.Buffer
		e := encoderOf(t, Zstd, &b, zstd.WithWindowSize(size))
		_, _ = e.Write([]byte("a"))
		_ = e.Flush()
		_, _ = e.Write([]byte("b"))
		_ = e.Close()
		return b.Bytes()
	}
	for name, test := range map[string]struct {
		body []byte
		c    Coding
		want int64
	}{
		"gzip":             {encode(t, []byte("ab"), Gzip), Gzip, flateMemory},
		"zstd, 64 KiB":     {window(64 << 10), Zstd, 1<<20 + zstdMemory},
		"zstd, 2 MiB":      {window(2 << 20), Zstd, 2<<20 + zstdMemory},
		"zstd, 8 MiB":      {window(8 << 20), Zstd, 8<<20 + zstdMemory},
		"zstd, then wider": {append(window(64<<10), window(2<<20)...), Zstd, 1<<20 + zstdMemory},
	} {
		var got int64
		r := NewReader(bytes.NewReader(test.body), Options{Codings: []Coding{test.c}, MaxBytes: 1000, Reserve: func(n int64) error { got += n; return nil }})
		text, err := io.ReadAll(r)
		r.Close()
		if got != test.want {
			t.Errorf("%s reserved %d bytes, want %d", name, got, test.want)
		}
		if wider := strings.HasSuffix(name, "wider"); wider != (err != nil) || !wider && string(text) != "ab" {
			t.Errorf("%s = %q, %v", name, text, err)
		}
	}
	full := errors.New("full")
	r := NewReader(bytes.NewReader(window(1<<20)), Options{Codings: []Coding{Zstd}, MaxBytes: 1000, Reserve: func(int64) error { return full }})
	defer r.Close()
	if _, err := io.ReadAll(r); !errors.Is(err, full) {
		t.Errorf("without memory = %v, want the error of Reserve", err)
	}
}

// What was flushed can be read before more arrives.
func TestReaderDecodesAsItArrives(t *testing.T) {
	for _, c := range []Coding{Zstd, Gzip, Deflate} {
		source, sink := io.Pipe()
		e := encoderOf(t, c, sink)
		r := NewReader(source, Options{Codings: []Coding{c}, MaxBytes: 1 << 20})
		got := make(chan string) // what was read since the last flush; unbuffered, so that nothing is read ahead
		go func() {
			defer close(got)
			b := make([]byte, len("data: {}\n\n"))
			for {
				if _, err := io.ReadFull(r, b); err != nil {
					return
				}
				got <- string(b)
			}
		}()
		for range 5 {
			flushed := make(chan struct{})
			go func() {
				defer close(flushed)
				_, _ = io.WriteString(e, "data: {}\n\n")
				_ = e.Flush()
			}()
			if text := <-got; text != "data: {}\n\n" {
				t.Errorf("%v: read %q, want what was flushed", c, text)
			}
			<-flushed
		}
		_ = sink.Close()
		<-got
		r.Close()
	}
}

// Whatever the bytes are, no more than the maximum is decoded, in the memory that was
// reserved, and what is accepted is read the same way in pieces.
func FuzzReader(f *testing.F) {
	for _, text := range []string{"", "a", strings.Repeat(`{"model":"m"}`, 100)} {
		for _, c := range []Coding{Zstd, Gzip, Deflate} {
			f.Add(uint8(c), uint8(3), encode(f, []byte(text), c))
			f.Add(uint8(c), uint8(Gzip), encode(f, []byte(text), c, Gzip))
		}
		f.Add(uint8(Deflate), uint8(3), rawDeflate(f, []byte(text)))
	}
	f.Fuzz(func(t *testing.T, first, second uint8, body []byte) {
		codings := []Coding{Coding(first % 3)}
		if second < 3 {
			codings = append(codings, Coding(second))
		}
		const most = 64 << 10
		text, err := decode(bytes.NewReader(body), most, codings...)
		if len(text) > most {
			t.Fatalf("decoded %d bytes, want %d at most", len(text), most)
		}
		again, err2 := decode(iotest.OneByteReader(bytes.NewReader(body)), most, codings...)
		if (err == nil) != (err2 == nil) || err == nil && !bytes.Equal(text, again) {
			t.Fatalf("whole: %d bytes, %v; by byte: %d bytes, %v", len(text), err, len(again), err2)
		}
		if _, invalid := errors.AsType[*InvalidError](err); err != nil && !invalid && !errors.Is(err, ErrTooLarge) {
			t.Fatalf("error %v is neither invalid nor too large", err)
		}
	})
}
