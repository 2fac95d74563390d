// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

func TestValidateReportsAllProblems(t *testing.T) {
	o := Options{
		Name: "a~b", Bind: netip.MustParseAddrPort("0.0.0.0:6472"), Advertise: netip.MustParseAddrPort("0.0.0.0:1"),
		Seeds: []string{"ok", "ok:1", "10.0.0.1", "[::1]:7", "::1", "", ":7", "x:y", "x:0", "a:b:c", "x:70000"},
		Label: strings.Repeat("l", 256), SendPlaintext: true, DepartedTTL: -time.Second,
	}
	err := o.Validate()
	if err == nil {
		t.Fatal("Validate() = nil, want errors")
	}
	got := strings.Split(err.Error(), "\n")
	want := []string{
		"name: must have letters", "boot: must have a random id", "boot: must have a start time", "bind: 0.0.0.0:6472 is not a loopback",
		"advertise: must be an address", `seeds: must be host:port, got ""`, `got ":7"`, `got "x:y"`, `got "x:0"`, `got "a:b:c"`, `got "x:70000"`,
		"label: must have at most 255", "keys: must be set", "send_plaintext: must not", "departedTTL: must be from 0",
	}
	if len(got) != len(want) {
		t.Fatalf("%d problems, want %d:\n%s", len(got), len(want), err)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("problem %d = %q, want it to contain %q", i, got[i], want[i])
		}
	}
}

func TestValidateAccepts(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"loopback":          func(*Options) {},
		"IPv6 loopback":     func(o *Options) { o.Bind = netip.MustParseAddrPort("[::1]:6472") },
		"keys":              func(o *Options) { o.Bind = netip.MustParseAddrPort("0.0.0.0:6472"); o.Keys = [][]byte{key(1)} },
		"insecure":          func(o *Options) { o.Bind = netip.MustParseAddrPort("10.0.0.1:6472"); o.Insecure = true },
		"the longest name":  func(o *Options) { o.Name = strings.Repeat("s", MaxName) },
		"a given transport": func(o *Options) { o.Bind = netip.AddrPort{}; o.Transport = &memberlist.MockTransport{} },
	} {
		o := validOptions()
		change(&o)
		if err := o.Validate(); err != nil {
			t.Errorf("%s: Validate() = %v, want nil", name, err)
		}
	}
}
