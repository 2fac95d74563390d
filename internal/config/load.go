// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/bucketring/bucketring/internal/nearest"
)

// A Setting is one value and where it came from.
type Setting struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`  // string, bool, int or []string; durations are strings
	Source string `json:"source"` // "flag --http", "env BUCKETRING_HTTP", "node.yaml:3" or "default"
}

// AddFlags declares --config and one flag for each setting.
func AddFlags(flags *pflag.FlagSet) { addFlags(flags, Default().fields()) }

func addFlags(flags *pflag.FlagSet, fields []field) {
	for _, f := range fields {
		flag := flags.VarPF(&flagValue{field: f}, f.flag(), "", f.help)
		if f.kind() == "bool" {
			flag.NoOptDefVal = "true"
		}
	}
	flags.StringP("config", "c", "", "YAML file with the settings above as keys, spelled with underscores")
}

// flagValue checks a flag's text as soon as it is given.
type flagValue struct{ field field }

func (v *flagValue) String() string {
	if v.field.value.IsValid() && !v.field.value.IsZero() {
		return v.field.text()
	}
	return ""
}
func (v *flagValue) Set(s string) error { return v.field.set(s) }
func (v *flagValue) Type() string       { return v.field.kind() }

// Load puts a configuration together from parsed flags, the environment and
// the file named by --config (or BUCKETRING_CONFIG). The settings tell where
// each value came from, secrets masked. The error joins every value that
// cannot be read; whether values make sense together is for [Config.Validate].
func Load(flags *pflag.FlagSet, lookupEnv func(string) (string, bool)) (*Config, []Setting, error) {
	c := Default()
	settings, err := loadInto(c.fields(), flags, lookupEnv, envPrefix)
	if settings == nil {
		return nil, nil, err
	}
	if c.Name == "" {
		c.Name, _ = os.Hostname()
		name := &settings[slices.IndexFunc(settings, func(s Setting) bool { return s.Key == "name" })]
		name.Value = c.Name
		name.Source += ", the host name"
	}
	return c, settings, err
}

// loadInto sets fields. Without settings, there is a file that can't be read.
func loadInto(fields []field, flags *pflag.FlagSet, lookupEnv func(string) (string, bool), env string) ([]Setting, error) {
	var problems []error
	path := flags.Lookup("config").Value.String()
	if text, ok := lookupEnv(env + "CONFIG"); ok && path == "" {
		path = text
	}
	var file map[string]fileValue
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read config: %w", err)
		}
		var bad []error
		file, bad = parse(path, text, fields)
		problems = append(problems, bad...)
	}

	settings := []Setting{}
	for _, f := range fields {
		source, text := "default", f.def
		if v, ok := file[f.key]; ok {
			source, text = fmt.Sprintf("%s:%d", path, v.line), v.text
		}
		if v, ok := lookupEnv(f.env); ok {
			source, text = "env "+f.env, v
		}
		if flag := flags.Lookup(f.flag()); flag.Changed {
			source, text = "flag --"+flag.Name, flag.Value.String()
		}
		if err := f.set(text); err != nil {
			problems = append(problems, fmt.Errorf("%s (%s): %w", f.key, source, err))
		}
		s := Setting{Key: f.key, Value: f.plain(), Source: source}
		if f.secret && s.Value != "" {
			s.Value = "********"
		}
		settings = append(settings, s)
	}
	return settings, errors.Join(problems...)
}

type fileValue struct {
	text string
	line int
}

// parse reads a YAML mapping of known keys, and reports every problem as
// file:line:column.
func parse(path string, text []byte, fields []field) (map[string]fileValue, []error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, []error{fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	if len(doc.Content) == 0 {
		return nil, nil // an empty file
	}
	var problems []error
	bad := func(n *yaml.Node, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s:%d:%d: %s", path, n.Line, n.Column, fmt.Sprintf(format, args...)))
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		bad(root, "must be a mapping of settings")
		return nil, problems
	}
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.key
	}
	values := map[string]fileValue{}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		_, twice := values[key.Value]
		at := slices.Index(known, key.Value)
		if at < 0 {
			bad(key, "unknown key %q%s", key.Value, didYouMean(nearest.Word(key.Value, known)))
			continue
		}
		text, ok := scalar(value, fields[at].kind() == "list")
		switch {
		case twice:
			bad(key, "key %q is given twice", key.Value)
		case !ok:
			bad(value, "%s: must be a %s", key.Value, fields[at].kind())
		default:
			values[key.Value] = fileValue{text, value.Line}
		}
	}
	return values, problems
}

// scalar returns the text of a node; a list may also be a sequence.
func scalar(n *yaml.Node, list bool) (string, bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return "", true
	case n.Kind == yaml.ScalarNode:
		return n.Value, true
	case n.Kind != yaml.SequenceNode || !list:
		return "", false
	}
	items := make([]string, len(n.Content))
	for i, item := range n.Content {
		if item.Kind != yaml.ScalarNode {
			return "", false
		}
		items[i] = item.Value
	}
	return strings.Join(items, ","), true
}

// Print writes settings as a configuration file whose comments say where each
// value came from.
func Print(w io.Writer, settings []Setting) error {
	lines, width := make([]string, len(settings)), 0
	for i, s := range settings {
		var value yaml.Node
		if err := value.Encode(s.Value); err != nil {
			return fmt.Errorf("print %s: %w", s.Key, err)
		}
		value.Style |= yaml.FlowStyle // a list on one line
		line, err := yaml.Marshal(map[string]*yaml.Node{s.Key: &value})
		if err != nil {
			return fmt.Errorf("print %s: %w", s.Key, err)
		}
		lines[i] = strings.TrimSpace(string(line))
		width = max(width, len(lines[i]))
	}
	for i, s := range settings {
		if _, err := fmt.Fprintf(w, "%-*s  # %s\n", width, lines[i], s.Source); err != nil {
			return err
		}
	}
	return nil
}

// Reference is the table of all settings, in Markdown.
func Reference() string { return reference((&Config{}).fields()) }

func reference(fields []field) string {
	var b strings.Builder
	b.WriteString("| YAML key | flag | environment | default | meaning |\n|---|---|---|---|---|\n")
	for _, f := range fields {
		def := "`" + f.def + "`"
		if f.def == "" {
			def = ""
		}
		fmt.Fprintf(&b, "| `%s` | `--%s` | `%s` | %s | %s |\n", f.key, f.flag(), f.env, def, f.help)
	}
	return b.String()
}

func didYouMean(word string) string {
	if word == "" {
		return ""
	}
	return `, did you mean "` + word + `"?`
}
