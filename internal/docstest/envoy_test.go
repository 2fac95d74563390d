// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"encoding/json"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3" // named in bootstraps
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	envoyrules "github.com/bucketring/bucketring/rpc/envoy/config"
)

// TestEnvoyRuleBlocksParse parses blocks of "yaml rules" like a node.
func TestEnvoyRuleBlocksParse(t *testing.T) {
	n := 0
	for _, file := range documents(t) {
		for _, b := range blocks(t, file, "yaml rules") {
			n++
			if _, err := envoyrules.Parse(file, []byte(b.text)); err != nil {
				t.Errorf("%s:%d: %v", file, b.line, err)
			}
		}
	}
	if n < 1 {
		t.Error("the documents have no rules for Envoy")
	}
}

// TestEnvoyBlocksParse parses and validates blocks of "yaml envoy" like Envoy.
func TestEnvoyBlocksParse(t *testing.T) {
	n := 0
	for _, file := range documents(t) {
		for _, b := range blocks(t, file, "yaml envoy") {
			n++
			var doc any
			if err := yaml.Unmarshal([]byte(b.text), &doc); err != nil {
				t.Errorf("%s:%d: %v", file, b.line, err)
				continue
			}
			text, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			var c bootstrap.Bootstrap
			if err := protojson.Unmarshal(text, &c); err != nil {
				t.Errorf("%s:%d: %v", file, b.line, err)
				continue
			}
			validate(t, file, b.line, &c)
		}
	}
	if n < 1 {
		t.Error("the documents have no configuration of Envoy")
	}
}

// validate checks a message and the messages packed in it.
func validate(t *testing.T, file string, line int, m proto.Message) {
	t.Helper()
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			t.Errorf("%s:%d: %v", file, line, err)
		}
	}
	walkAny(m.ProtoReflect(), func(packed *anypb.Any) {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			t.Errorf("%s:%d: %v", file, line, err)
			return
		}
		validate(t, file, line, inner)
	})
}

// walkAny calls f with every Any in a message.
func walkAny(m protoreflect.Message, f func(*anypb.Any)) {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		f(packed)
		return
	}
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case d.IsList() && d.Message() != nil:
			for i := range v.List().Len() {
				walkAny(v.List().Get(i).Message(), f)
			}
		case d.IsMap() && d.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				walkAny(v.Message(), f)
				return true
			})
		case d.Message() != nil && !d.IsMap() && !d.IsList():
			walkAny(v.Message(), f)
		}
		return true
	})
}
