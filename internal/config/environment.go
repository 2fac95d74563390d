// SPDX-License-Identifier: Apache-2.0

package config

import (
	"regexp"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/internal/nearest"
)

// An UnknownVariable is an environment variable with the prefix of settings that none has.
type UnknownVariable struct {
	Name string
	Near string // the variable that it is probably a misspelling of; "": none
}

// serviceVariable matches what Kubernetes and Docker put into the environment of a container
// for a service whose name begins with bucketring: BUCKETRING_SERVICE_HOST,
// BUCKETRING_PORT_6470_TCP_ADDR.
var serviceVariable = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// UnknownVariables returns the variables of environ, which has the form of [os.Environ], that
// are not known and not empty, in their order. Known are those of a node and of a proxy, and more.
func UnknownVariables(environ []string, more ...string) (unknown []UnknownVariable) {
	names := append(slices.Clone(more), envPrefix+"CONFIG", proxyEnvPrefix+"CONFIG")
	for _, f := range slices.Concat((&Config{}).fields(), (&StandaloneProxy{}).fields()) {
		names = append(names, f.env)
	}
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], envPrefix)
	}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		rest, ours := strings.CutPrefix(name, envPrefix)
		if !ours || value == "" || slices.Contains(names, rest) || serviceVariable.MatchString(name) {
			continue
		}
		u := UnknownVariable{Name: name}
		if near := nearest.Word(rest, names); near != "" {
			u.Near = envPrefix + near
		}
		unknown = append(unknown, u)
	}
	return unknown
}
