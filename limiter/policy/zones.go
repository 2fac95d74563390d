// SPDX-License-Identifier: Apache-2.0

package policy

import (
	_ "embed" // for zoneNames
	"strings"

	"github.com/bucketring/bucketring/internal/nearest"
)

// zoneNames are the names of the zones of the IANA time zone database that countries use, one
// on each line. Other names are valid, too.
//
//go:embed zones.txt
var zoneNames string

// nearestZone returns the name of a zone that was probably meant, or "": one that is spelt
// nearly the same, or that of a city.
func nearestZone(name string) string {
	names := strings.Fields(zoneNames)
	if near := nearest.Word(name, names); near != "" {
		return near
	}
	city := strings.ReplaceAll(name[strings.LastIndex(name, "/")+1:], " ", "_")
	for _, zone := range names {
		if strings.EqualFold(zone[strings.LastIndex(zone, "/")+1:], city) {
			return zone
		}
	}
	return ""
}
