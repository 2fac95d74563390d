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

	"github.com/bucketring/bucketring/internal/yamldoc"
)

// A Setting is the value of one setting and its source.
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
		if f.choices != nil {
			flag.Annotations = map[string][]string{ChoicesAnnotation: f.choices}
		}
	}
	flags.StringP("config", "c", "", "YAML file with the settings above as keys, with underscores instead of dashes")
}

// flagValue is the value of a flag. It rejects text that is not of the setting's type.
type flagValue struct{ field field }

func (v *flagValue) String() string {
	if v.field.value.IsValid() && !v.field.value.IsZero() {
		return v.field.text()
	}
	return ""
}
func (v *flagValue) Set(s string) error { return v.field.set(s) }
func (v *flagValue) Type() string       { return v.field.kind() }

// Load combines parsed flags, the environment and the file named by --config (or
// BUCKETRING_CONFIG). The settings say where each value came from. The error joins a
// problem for each value that cannot be parsed; see also [Config.Validate].
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

// loadInto sets fields. The settings are nil only if the file cannot be read.
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
		if file, err = parse(path, text, fields); err != nil {
			problems = append(problems, err)
		}
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
		settings = append(settings, Setting{Key: f.key, Value: redacted(f.encodable()), Source: source})
	}
	return settings, errors.Join(problems...)
}

type fileValue struct {
	text string
	line int
}

// parse reads a YAML mapping of known keys.
func parse(path string, src []byte, fields []field) (map[string]fileValue, error) {
	var r yamldoc.Reader
	root, ok := r.Open(path, src)
	if !ok || root.IsNull() {
		return nil, r.Err()
	}
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.key
	}
	values := map[string]fileValue{}
	for _, f := range r.Fields(root, "the configuration", known) {
		_, line, _ := f.Value.Position()
		var text string
		switch isList := fields[slices.Index(known, f.Name)].kind() == "list"; {
		case f.Value.IsNull():
		case isList && f.Value.IsList():
			var items []string
			for _, n := range r.Items(f.Value, f.Name) {
				item, _ := r.Text(n, "an item of "+f.Name)
				items = append(items, item)
			}
			text = strings.Join(items, ",")
		default:
			text, _ = r.Text(f.Value, f.Name)
		}
		values[f.Name] = fileValue{text, line}
	}
	return values, r.Err()
}

// Print writes settings as a configuration file, with the source of each value as a
// comment.
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

// Reference returns a Markdown table of all settings.
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
