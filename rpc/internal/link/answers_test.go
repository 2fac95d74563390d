// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Parse accepts what the generated code accepts, and does not decode results.
func FuzzParse(f *testing.F) {
	full, err := proto.Marshal(&pb.Answers{Sequence: 300, Ring: 7, Results: []*pb.Result{{Term: 1}, {}, {Term: 1 << 40}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add(append(full, full...))
	f.Add([]byte{0x1a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0x08, 0x01, 0x1a, 0x00, 0x23, 0x08, 0x01, 0x24})
	f.Fuzz(func(t *testing.T, wire []byte) {
		var want pb.Answers
		wantErr := proto.Unmarshal(wire, &want)
		var got Answers
		if err := got.Parse(wire); (err != nil) && wantErr == nil {
			t.Fatalf("Parse(%x) = %v", wire, err)
		}
		if wantErr != nil {
			return
		}
		if got.Sequence != want.GetSequence() || len(got.Results) != len(want.GetResults()) {
			t.Fatalf("Parse(%x): sequence %d with %d results, want %d with %d", wire, got.Sequence, len(got.Results), want.GetSequence(), len(want.GetResults()))
		}
		for i, b := range got.Results {
			if len(want.GetResults()[i].GetValues()) > 0 {
				continue // which refer to definitions
			}
			m := new(message)
			if err := m.Decode(codec.Encoded{Result: b}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.GetResults()[i], (*pb.Result)(m), protocmp.Transform()); diff != "" {
				t.Fatalf("result %d (-want +got):\n%s", i, diff)
			}
		}
	})
}

func TestParseBounds(t *testing.T) {
	var a Answers
	many := []byte(strings.Repeat("\x1a\x00", codec.MaxResults+1))
	if err := a.Parse(many[:2*codec.MaxResults]); err != nil || len(a.Results) != codec.MaxResults {
		t.Errorf("Parse() = %v with %d results", err, len(a.Results))
	}
	if err := a.Parse(many); !errors.Is(err, codec.ErrTooManyResults) {
		t.Errorf("Parse() = %v, want %v", err, codec.ErrTooManyResults)
	}
	a.free()
	if a.Results != nil {
		t.Errorf("room for %d results is kept", cap(a.Results))
	}
}

type failing struct{ error }

func (r failing) Decode(codec.Encoded) error { return r.error }

// An answer that cannot be decoded fails its own call only.
func TestUndecodableResult(t *testing.T) {
	f := &fake{handle: answering(0)}
	bubble(t, f, Options{}, func(t *testing.T, l *Link) {
		good := l.Start(t.Context(), check("good"))
		synctest.Wait()
		err := l.DoInto(t.Context(), check("bad"), failing{errRejected})
		if !errors.Is(err, ErrAnswer) || !errors.Is(err, errRejected) || !MayBeDecided(err) {
			t.Errorf("DoInto() = %v, may be decided: %t, want %v of a call that may", err, MayBeDecided(err), ErrAnswer)
		}
		r, err := good.Wait(t.Context())
		wantResult(t, "good", r, err)
		r, err = l.Do(context.Background(), check("next"))
		wantResult(t, "next", r, err)
	})
}
