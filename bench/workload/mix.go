// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Mix is a set of names with weights, such as free=70,standard=25,enterprise=5. The
// zero value has no names and was not said.
type Mix struct {
	names   []string
	weights []int64
	total   int64
}

const (
	maxNames  = 100
	maxWeight = 1_000_000
	mixHint   = "write NAME=WEIGHT,... such as free=70,standard=25,enterprise=5, or one name"
)

// ParseMix reads names with weights, or one name alone. Its errors don't say which
// part it is; those of [Parse] do.
func ParseMix(text string) (m Mix, err error) {
	if text == "" {
		return Mix{}, nil
	}
	for item := range strings.SplitSeq(text, ",") {
		if err := m.add(strings.TrimSpace(item), text); err != nil {
			return Mix{}, in("", text, mixHint, err)
		}
	}
	if len(m.names) == 1 {
		m.weights[0], m.total = 1, 1 // whatever it is, it is all
	}
	return m, nil
}

func (m *Mix) add(item, text string) error {
	name, weight, ok := strings.Cut(item, "=")
	n := int64(1)
	switch {
	case len(m.names) == maxNames:
		return fmt.Errorf("there are more than %d names", maxNames)
	case item == "":
		return errors.New("a name is missing")
	case !ok && strings.Contains(text, ","):
		return fmt.Errorf("%s has no weight", quote(item))
	}
	if err := checkWord("the name", name, 1); err != nil {
		return err
	}
	if slices.Contains(m.names, name) {
		return fmt.Errorf("%s is there twice", quote(name))
	}
	if ok {
		var err error
		if n, err = parseNumber(weight, 1, maxWeight); err != nil {
			return fmt.Errorf("the weight of %s: %w", name, err)
		}
	}
	m.names, m.weights, m.total = append(m.names, name), append(m.weights, n), m.total+n
	return nil
}

// String returns the canonical text; that of one name has no weight.
func (m Mix) String() string {
	if len(m.names) == 1 {
		return m.names[0]
	}
	var b strings.Builder
	for i, name := range m.names {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(name + "=" + number(m.weights[i]))
	}
	return b.String()
}

// MarshalText returns the canonical text.
func (m Mix) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is [ParseMix].
func (m *Mix) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMix(string(text))
	return err
}

// pick returns the name at a place from 0 to 2^64-1; the empty mix has "".
func (m *Mix) pick(place uint64) string {
	if len(m.names) == 0 {
		return ""
	}
	at := int64(scale(place, uint64(m.total)))
	for i, w := range m.weights {
		if at < w {
			return m.names[i]
		}
		at -= w
	}
	return m.names[len(m.names)-1]
}

// percent lists the names with their shares.
func (m *Mix) percent() string {
	items := make([]string, len(m.names))
	for i, name := range m.names {
		items[i] = fmt.Sprintf("%s %s", name, percentOf(float64(m.weights[i])/float64(m.total)))
	}
	return strings.Join(items, ", ")
}

// checkWord says whether s can stand in a specification: printable ASCII without
// spaces, at least so long.
func checkWord(what, s string, least int) error {
	const most = 64
	switch {
	case len(s) < least:
		return fmt.Errorf("%s is missing", what)
	case len(s) > most:
		return fmt.Errorf("%s is longer than %d bytes", what, most)
	}
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("%s must be printable ASCII without spaces, and has %q", what, r)
		}
	}
	return nil
}
