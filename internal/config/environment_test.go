// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"testing"
)

func TestUnknownVariables(t *testing.T) {
	got := UnknownVariables([]string{
		"PATH=/bin", "BUCKETRING_HTTP=:1", "BUCKETRING_CONFIG=c", "BUCKETRING_PROXY_CONFIG=c", "BUCKETRING_PROXY_UPSTREAM=u",
		"BUCKETRING_INSECUR=true", "BUCKETRING_PROXY_UPSTRAEM=u", "BUCKETRING_TOKEN_FLE=secret=1", "BUCKETRING_TEAM=a", "BUCKETRING_DAT=", "BUCKETRING_TOKEN_FILE=f",
		"BUCKETRING_SERVICE_HOST=10.0.0.1", "BUCKETRING_SERVICE_PORT=6470", "BUCKETRING_SERVICE_PORT_HTTP=6470",
		"BUCKETRING_PORT=tcp://10.0.0.1:6470", "BUCKETRING_PORT_6470_TCP=tcp://10.0.0.1:6470", "BUCKETRING_PORT_6470_TCP_ADDR=10.0.0.1",
		"BUCKETRING_PORT_6472_UDP_PROTO=udp", "BUCKETRING_PROXY_SERVICE_HOST=10.0.0.2", "BUCKETRING_PROXY_PORT_6473_TCP_PORT=6473", "BUCKETRING_HTTP_PORT=tcp://10.0.0.3:80",
	}, "BUCKETRING_TOKEN_FILE")
	want := []UnknownVariable{
		{"BUCKETRING_INSECUR", "BUCKETRING_INSECURE"},
		{"BUCKETRING_PROXY_UPSTRAEM", "BUCKETRING_PROXY_UPSTREAM"},
		{"BUCKETRING_TOKEN_FLE", "BUCKETRING_TOKEN_FILE"},
		{"BUCKETRING_TEAM", ""},
	}
	if !slices.Equal(got, want) {
		t.Errorf("UnknownVariables() = %v, want %v", got, want)
	}
	for _, f := range slices.Concat((&Config{}).fields(), (&StandaloneProxy{}).fields()) {
		if serviceVariable.MatchString(f.env) {
			t.Errorf("%s has the name of a variable of a service", f.env)
		}
	}
}
