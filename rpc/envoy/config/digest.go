// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/limiter"
)

// finish sorts the rules by domain, and sets the digest and the text. Within a domain
// the order of descriptors counts, since wildcards are tried in it.
func (c *Config) finish(domains []Domain) {
	domains = slices.Clone(domains)
	slices.SortStableFunc(domains, func(a, b Domain) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(c.rules, func(a, b *Rule) int { return cmp.Compare(a.Domain, b.Domain) })
	h := sha256.New()
	fmt.Fprintln(h, "bucketring envoy rules 1")
	for i := range domains {
		fmt.Fprintf(h, "domain %q\n", domains[i].Name)
		write(h, domains[i].Descriptors, 0)
	}
	c.digest = hex.EncodeToString(h.Sum(nil))
	c.text = formatDomains(domains)
}

func write(w io.Writer, ds []Descriptor, depth int) {
	for i := range ds {
		d := &ds[i]
		fmt.Fprintf(w, "%d %q %q %t %t %t %t %t", depth, d.Key, d.Value, d.Shadow, d.Quota, d.DetailedMetric, d.ValueToMetric, d.ShareThreshold)
		if l := d.Limit; l != nil {
			amount, window := l.Amount, l.Window
			if l.Unlimited {
				amount, window = 0, limiter.Window{}
			}
			fmt.Fprintf(w, " %d %d %d %t %q %q", window.Unit, max(window.Multiple, 1), amount, l.Unlimited, l.Name, l.Replaces)
		}
		fmt.Fprintf(w, " %s\n", metadataText(d))
		write(w, d.Descriptors, depth+1)
	}
}

// metadataText encodes metadata deterministically.
func metadataText(d *Descriptor) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(d.Metadata)
	if err != nil {
		return err.Error()
	}
	return hex.EncodeToString(b)
}
