// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func drawRecord(t *rapid.T) record {
	return record{
		state: State(rapid.IntRange(1, 3).Draw(t, "state")),
		boot:  Boot{ID(rapid.Uint64().Draw(t, "boot")), instant(rapid.Int64().Draw(t, "started"))},
		grpc:  rapid.Uint16().Draw(t, "grpc"), http: rapid.Uint16().Draw(t, "http"),
		ring: ID(rapid.Uint64().Draw(t, "ring")), policy: ID(rapid.Uint64().Draw(t, "policy")),
		name:  rapid.StringMatching(`[a-zA-Z0-9._-]{1,57}`).Draw(t, "name"),
		rules: ID(rapid.Uint64().Draw(t, "rules")),
		tls:   rapid.Bool().Draw(t, "tls"),
	}
}

func TestRecordSurvivesGossip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawRecord(t)
		b := want.encode()
		if len(b) > metaMax {
			t.Fatalf("encode() has %d bytes, want at most %d", len(b), metaMax)
		}
		got, err := decodeRecord(b)
		if err != nil || got != want {
			t.Fatalf("decodeRecord(encode()) = %+v, %v, want %+v", got, err, want)
		}
		// What a later version appends is skipped.
		later := append(bytes.Clone(b), "more"...)
		later[0] = metaVersion + 1
		if got, err := decodeRecord(later); err != nil || got != want {
			t.Fatalf("decodeRecord of a later version = %+v, %v, want %+v", got, err, want)
		}
		// Version 2 had no flags, and version 1 no rules.
		second := bytes.Clone(b[:len(b)-metaFlags])
		second[0], want.tls = 2, false
		if got, err := decodeRecord(second); err != nil || got != want {
			t.Fatalf("decodeRecord of version 2 = %+v, %v, want %+v", got, err, want)
		}
		first := bytes.Clone(b[:len(b)-metaFlags-metaRules])
		first[0], want.rules = 1, 0
		if got, err := decodeRecord(first); err != nil || got != want {
			t.Fatalf("decodeRecord of version 1 = %+v, %v, want %+v", got, err, want)
		}
	})
}

// The format must not change, because other versions read it.
func TestRecordBytes(t *testing.T) {
	r := record{
		state: Serving, boot: Boot{0x0102030405060708, time.Unix(0, 9)}, grpc: 6471, http: 6470,
		ring: 0x1111, policy: 0x2222, name: "node-1", rules: 0x3333, tls: true,
	}
	want := "\x03\x02\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x00\x00\x00\x00\x09\x19\x47\x19\x46" +
		"\x00\x00\x00\x00\x00\x00\x11\x11\x00\x00\x00\x00\x00\x00\x22\x22\x06node-1\x00\x00\x00\x00\x00\x00\x33\x33\x01"
	if got := string(r.encode()); got != want {
		t.Errorf("encode() = %q, want %q", got, want)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	r := record{state: Leaving, boot: Boot{1, time.Unix(2, 3)}, grpc: 4, ring: 5, policy: 6, name: strings.Repeat("s", MaxName)}
	f.Add(r.encode())
	f.Add([]byte{})
	f.Add(r.encode()[:metaFixed+1])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		if validateName(r.name) != nil || !r.state.valid() {
			t.Fatalf("decodeRecord(%x) = %+v, want an error", b, r)
		}
		if got := r.encode(); b[0] == metaVersion && !bytes.Equal(got, b) {
			t.Fatalf("encode(decode(%x)) = %x", b, got)
		}
	})
}
