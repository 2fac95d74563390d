// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// field is one setting: its names, its documentation and its value.
type field struct {
	key, def, help string
	env            string   // environment variable
	choices        []string // the values that it may have; nil: not of a fixed set
	value          reflect.Value
}

// fieldsOf returns the settings of the struct that c points to, in order. The keys of
// a nested struct have its prefix, and environment variables have the prefix env.
func fieldsOf(c any, env string) []field {
	return appendFields(nil, reflect.ValueOf(c).Elem(), "", env)
}

func appendFields(fields []field, v reflect.Value, prefix, env string) []field {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		if v.Field(i).Kind() == reflect.Struct {
			fields = appendFields(fields, v.Field(i), prefix+tag.Get("prefix"), env)
			continue
		}
		key := prefix + tag.Get("key")
		var choices []string
		if list, ok := tag.Lookup("choices"); ok {
			choices = strings.Split(list, ",")
		}
		fields = append(fields, field{
			key: key, def: tag.Get("default"), help: tag.Get("help"), env: env + strings.ToUpper(key), choices: choices, value: v.Field(i),
		})
	}
	return fields
}

func (f field) flag() string { return strings.ReplaceAll(f.key, "_", "-") }

// flagName returns the flag of a setting, for messages.
func flagName(key string) string { return "--" + strings.ReplaceAll(key, "_", "-") }

// kind is the type of the value in help texts.
func (f field) kind() string {
	switch f.value.Interface().(type) {
	case bool:
		return "bool"
	case int:
		return "int"
	case time.Duration:
		return "duration"
	case []string:
		return "list"
	}
	return "string"
}

// set parses text as the type of the field. Empty text is the zero value.
func (f field) set(text string) error {
	if text == "" {
		f.value.SetZero()
		return nil
	}
	switch p := f.value.Addr().Interface().(type) {
	case *string:
		*p = text
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("must be true or false, got %q", text)
		}
		*p = b
	case *int:
		n, err := strconv.Atoi(strings.ReplaceAll(text, "_", ""))
		if err != nil {
			return fmt.Errorf("must be a whole number, got %q", text)
		}
		*p = n
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("must be a duration such as 10s, got %q", text)
		}
		*p = d
	case *[]string:
		*p = nil
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*p = append(*p, item)
			}
		}
	default:
		panic("config: field " + f.key + " has an unsupported type")
	}
	return nil
}

// text is the inverse of set.
func (f field) text() string {
	if list, ok := reflect.TypeAssert[[]string](f.value); ok {
		return strings.Join(list, ",")
	}
	return fmt.Sprint(f.value.Interface())
}

// encodable returns the value as a type that JSON and YAML can encode.
func (f field) encodable() any {
	if d, ok := reflect.TypeAssert[time.Duration](f.value); ok {
		return d.String()
	}
	return f.value.Interface()
}
