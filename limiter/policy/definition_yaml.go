// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"io"
	"strconv"
	"strings"
)

// A Cell says which value of a [Definition] stands on a line of its YAML: that of a key
// (such as burst) of the thing with a name, which may be in another.
type Cell struct {
	Section string   // tiers, limits, prices, models, or "" for keys of the file
	Names   []string // of the tier, or of the tier and the limit, or of the model
	Key     string   // "" for a line that is about the whole thing
}

// WriteYAML writes a policy file. If cells is not nil, it is called for each line that
// has a value of a tier, a limit, a price or a model, with the number of the line from 1.
func (d *Definition) WriteYAML(w io.Writer, cells func(line int, c Cell)) error {
	y := yamlWriter{w: bufio.NewWriterSize(w, 1<<16), line: 1, cells: cells}
	y.field("", "default_tier", d.DefaultTier)
	y.field("", "default_output_tokens", d.DefaultOutputTokens)
	if len(d.Tiers) > 0 {
		y.text("tiers:\n")
	}
	for i := range d.Tiers {
		y.tier(&d.Tiers[i])
	}
	if len(d.Prices) > 0 {
		y.text("prices:\n")
	}
	for i := range d.Prices {
		y.price(&d.Prices[i])
	}
	if len(d.Models) > 0 {
		y.text("models:\n")
	}
	for i := range d.Models {
		y.model(&d.Models[i])
	}
	y.assign(d)
	y.apiKeys(d)
	y.overrides(d)
	if y.err != nil {
		return y.err
	}
	return y.w.Flush()
}

// yamlWriter keeps the first error.
type yamlWriter struct {
	w     *bufio.Writer
	err   error
	line  int
	at    Cell // of the next lines, but for Key
	cells func(int, Cell)
	buf   []byte
}

// text writes a line.
func (y *yamlWriter) text(parts ...string) {
	for _, s := range parts {
		if y.err == nil {
			_, y.err = y.w.WriteString(s)
		}
	}
	y.line++
}

// quoted writes strings as double-quoted scalars.
func (y *yamlWriter) quoted(s string) string {
	y.buf = strconv.AppendQuote(y.buf[:0], s)
	return string(y.buf)
}

func (y *yamlWriter) cell(key string) {
	if y.cells != nil {
		at := y.at
		at.Key = key
		y.cells(y.line, at)
	}
}

// field writes a key with a value; nothing for an empty value.
func (y *yamlWriter) field(indent, key, value string) {
	if value != "" {
		y.cell(key)
		y.text(indent, key, ": ", y.quoted(value), "\n")
	}
}

// nested writes a mapping of fields; nothing if all are empty.
func (y *yamlWriter) nested(indent, key string, fields ...[2]string) {
	first := true
	for _, f := range fields {
		if f[1] == "" {
			continue
		}
		if first {
			y.cell(f[0])
			y.text(indent, key, ":\n")
			first = false
		}
		y.field(indent+"  ", f[0], f[1])
	}
}

// bare reports whether the tier has no property but its name.
func (t *TierDefinition) bare() bool {
	return t.Zone == "" && t.BoundOutput == "" && t.Estimate == "" && t.EstimateOutput == "" && t.Weight == "" && t.DefaultPriority == "" && t.HighestPriority == ""
}

func (y *yamlWriter) tier(t *TierDefinition) {
	y.at = Cell{Section: "tiers", Names: []string{t.Name}}
	y.cell("")
	if len(t.Limits) == 0 && t.bare() {
		y.text("  ", y.quoted(t.Name), ": {}\n")
		return
	}
	y.text("  ", y.quoted(t.Name), ":\n")
	y.field("    ", "zone", t.Zone)
	y.field("    ", "bound_output", t.BoundOutput)
	y.field("    ", "weight", t.Weight)
	y.nested("    ", "priority", [2]string{"default", t.DefaultPriority}, [2]string{"highest", t.HighestPriority})
	switch {
	case t.EstimateOutput != "":
		y.cell("estimate")
		y.text("    estimate:\n")
		y.field("      ", "mode", t.Estimate)
		y.field("      ", "output_tokens", t.EstimateOutput)
	default:
		y.field("    ", "estimate", t.Estimate)
	}
	if len(t.Limits) > 0 {
		y.text("    limits:\n")
	}
	for i := range t.Limits {
		y.limit(t.Name, &t.Limits[i])
	}
}

func (y *yamlWriter) limit(tier string, l *LimitDefinition) {
	y.at = Cell{Section: "limits", Names: []string{tier, l.Name}}
	y.cell("")
	y.text("      -\n")
	for _, f := range [...][2]string{
		{"name", l.Name},
		{"dimension", l.Dimension},
		{"limit", l.Limit},
		{"window", l.Window},
		{"starts", l.Starts},
		{"burst", l.Burst},
		{"algorithm", l.Algorithm},
		{"on_exceed", l.OnExceed},
		{"mode", l.Mode},
		{"unreachable", l.Unreachable},
		{"durability", l.Durability},
		{"show", l.Show},
		{"slices", l.Slices},
	} {
		y.field("        ", f[0], f[1])
	}
	y.nested("        ", "queue", [2]string{"max_wait", l.MaxWait}, [2]string{"max_depth", l.MaxDepth})
	y.nested("        ", "headroom", [2]string{"standard", l.HeadroomStandard}, [2]string{"batch", l.HeadroomBatch})
	if len(l.Models) > 0 {
		y.cell("models")
		list := make([]string, len(l.Models))
		for i, m := range l.Models {
			list[i] = y.quoted(m)
		}
		y.text("        models: [", strings.Join(list, ", "), "]\n")
	}
}

func (y *yamlWriter) price(p *PriceDefinition) {
	y.at = Cell{Section: "prices", Names: []string{p.Model}}
	y.cell("")
	y.text("  ", y.quoted(p.Model), ":\n")
	for _, f := range [...][2]string{
		{"input", p.Input},
		{"cached_input", p.CachedInput},
		{"cache_write", p.CacheWrite},
		{"cache_write_1h", p.CacheWrite1h},
		{"output", p.Output},
		{"request", p.Request},
		{"image", p.Image},
		{"search", p.Search},
	} {
		y.field("    ", f[0], f[1])
	}
	if len(p.ServiceTiers) > 0 {
		y.cell("service_tiers")
		list := make([]string, len(p.ServiceTiers))
		for i, f := range p.ServiceTiers {
			list[i] = y.quoted(f.Name) + ": " + y.quoted(f.Factor)
		}
		y.text("    service_tiers: { ", strings.Join(list, ", "), " }\n")
	}
}

func (y *yamlWriter) model(m *ModelDefinition) {
	y.at = Cell{Section: "models", Names: []string{m.Model}}
	y.cell("")
	if *m == (ModelDefinition{Model: m.Model}) {
		y.text("  ", y.quoted(m.Model), ": {}\n")
		return
	}
	y.text("  ", y.quoted(m.Model), ":\n")
	if m.WeightInput != "" || m.WeightCachedInput != "" || m.WeightOutput != "" {
		y.text("    weights:\n")
		y.field("      ", "input", m.WeightInput)
		y.field("      ", "cached_input", m.WeightCachedInput)
		y.field("      ", "output", m.WeightOutput)
	}
	y.field("    ", "default_output_tokens", m.DefaultOutputTokens)
	y.field("    ", "bound_output", m.BoundOutput)
}

func (y *yamlWriter) assign(d *Definition) {
	if d.Assign == nil {
		return
	}
	first := true
	for key, tier := range d.Assign {
		if first {
			y.text("assign:\n")
			first = false
		}
		y.text("  - { key: ", y.quoted(key), ", tier: ", y.quoted(tier), " }\n")
	}
}

func (y *yamlWriter) apiKeys(d *Definition) {
	if d.APIKeys == nil {
		return
	}
	first := true
	for k := range d.APIKeys {
		if first {
			y.text("api_keys:\n")
			first = false
		}
		tier := ""
		if k.Tier != "" {
			tier = ", tier: " + y.quoted(k.Tier)
		}
		y.text("  - { hash: ", y.quoted(k.Hash), ", key: ", y.quoted(k.Key), tier, " }\n")
	}
}

func (y *yamlWriter) overrides(d *Definition) {
	if d.Overrides == nil {
		return
	}
	first := true
	for o := range d.Overrides {
		if first {
			y.text("overrides:\n")
			first = false
		}
		reason := ""
		if o.Reason != "" {
			reason = ", reason: " + y.quoted(o.Reason)
		}
		y.text("  - { key: ", y.quoted(o.Key), ", limit: ", y.quoted(o.Limit), ", value: ", y.quoted(o.Value), ", until: ", y.quoted(o.Until), reason, " }\n")
	}
}
