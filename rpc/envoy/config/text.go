// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Text returns the rules as YAML, one document per domain. [Parse] accepts each. Comments
// are lost.
func (c *Config) Text() string {
	if c == nil {
		return ""
	}
	return c.text
}

func formatDomains(domains []Domain) string {
	var b strings.Builder
	for i := range domains {
		if i > 0 {
			b.WriteString("---\n")
		}
		fmt.Fprintf(&b, "domain: %s\n", strconv.Quote(domains[i].Name))
		writeDescriptors(&b, domains[i].Descriptors, "")
	}
	return b.String()
}

// writeDescriptors writes descriptors, indented.
func writeDescriptors(b *strings.Builder, ds []Descriptor, indent string) {
	if len(ds) == 0 {
		return
	}
	fmt.Fprintf(b, "%sdescriptors:\n", indent)
	for i := range ds {
		d := &ds[i]
		fmt.Fprintf(b, "%s  - key: %s\n", indent, strconv.Quote(d.Key))
		inner := indent + "    "
		put := func(present bool, key, value string) {
			if present {
				fmt.Fprintf(b, "%s%s: %s\n", inner, key, value)
			}
		}
		put(d.Value != "", "value", strconv.Quote(d.Value))
		put(d.Shadow, "shadow_mode", "true")
		put(d.Quota, "quota_mode", "true")
		put(d.DetailedMetric, "detailed_metric", "true")
		put(d.ValueToMetric, "value_to_metric", "true")
		put(d.ShareThreshold, "share_threshold", "true")
		put(len(d.Metadata.GetFields()) > 0, "metadata", metadataJSON(d))
		if d.Limit != nil {
			put(true, "rate_limit", d.Limit.text())
		}
		writeDescriptors(b, d.Descriptors, inner)
	}
}

// text formats a limit on one line.
func (l *Limit) text() string {
	var parts []string
	put := func(key, value string) { parts = append(parts, key+": "+value) }
	if l.Unlimited {
		put("unlimited", "true")
	} else {
		put("unit", l.Window.Unit.String())
		if n := l.Window.Multiple; n > 1 {
			put("unit_multiplier", strconv.FormatUint(uint64(n), 10))
		}
		put("requests_per_unit", strconv.FormatInt(l.Amount, 10))
	}
	if l.Name != "" {
		put("name", strconv.Quote(l.Name))
	}
	if len(l.Replaces) > 0 {
		names := make([]string, len(l.Replaces))
		for i, name := range l.Replaces {
			names[i] = "{ name: " + strconv.Quote(name) + " }"
		}
		put("replaces", "["+strings.Join(names, ", ")+"]")
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// metadataJSON formats metadata as JSON, which is also YAML.
func metadataJSON(d *Descriptor) string {
	b, err := json.Marshal(d.Metadata.AsMap())
	if err != nil {
		return "{}" // impossible in files; a control plane can send NaN and infinity
	}
	return string(b)
}
