// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bucketring/bucketring/internal/amount"
)

// Mix is a set of names with weights, such as free=70,standard=25,enterprise=5. The
// zero value has no names.
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

// ParseMix parses names with weights, or one name alone. Its [Error] has no Part;
// those of [Parse] do.
func ParseMix(text string) (m Mix, err error) {
	if text == "" {
		return Mix{}, nil
	}
	for item := range strings.SplitSeq(text, ",") {
		if err := m.add(strings.TrimSpace(item), text); err != nil {
			return Mix{}, inPart("", text, mixHint, err)
		}
	}
	if len(m.names) == 1 {
		m.weights[0], m.total = 1, 1 // a single name needs no weight
	}
	return m, nil
}

func (m *Mix) add(item, text string) error {
	name, weight, ok := strings.Cut(item, "=")
	n := int64(1)
	switch {
	case len(m.names) == maxNames:
		return fmt.Errorf("must be at most %d names", maxNames)
	case item == "":
		return errors.New("a name is missing")
	case !ok && strings.Contains(text, ","):
		return fmt.Errorf("%s has no weight", quote(item))
	}
	if err := checkText("the name", name, 1); err != nil {
		return err
	}
	if slices.Contains(m.names, name) {
		return fmt.Errorf("%s must not be given twice", quote(name))
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

// String returns the canonical text. A single name has no weight.
func (m Mix) String() string {
	if len(m.names) == 1 {
		return m.names[0]
	}
	var b strings.Builder
	for i, name := range m.names {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(name + "=" + formatNumber(m.weights[i]))
	}
	return b.String()
}

// MarshalText returns the canonical text.
func (m Mix) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText parses text like [ParseMix].
func (m *Mix) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMix(string(text))
	return err
}

// Names returns the names, in the order in which they were given.
func (m *Mix) Names() []string { return slices.Clone(m.names) }

// pick maps a random number to a name, or to "" if the mix is empty.
func (m *Mix) pick(random uint64) string {
	if len(m.names) == 0 {
		return ""
	}
	at := int64(scale(random, uint64(m.total)))
	for i, w := range m.weights {
		if at < w {
			return m.names[i]
		}
		at -= w
	}
	return m.names[len(m.names)-1]
}

// percent lists the names with their shares in percent, which sum to 100: with one decimal,
// or with as many as the smallest needs for two digits.
func (m *Mix) percent() string {
	items, weights := make([]string, len(m.names)), make([]float64, len(m.names))
	smallest := m.total
	for i, w := range m.weights {
		weights[i] = float64(w)
		if w > 0 {
			smallest = min(smallest, w)
		}
	}
	places, unit := 1, int64(10) // of a percent
	for places < 6 && float64(smallest)/float64(m.total)*100*float64(unit) < 10 {
		places, unit = places+1, unit*10
	}
	for i, n := range amount.Shares(100*unit, weights) {
		items[i] = m.names[i] + " " + strconv.FormatFloat(float64(n)/float64(unit), 'f', -1, 64) + "%"
	}
	return strings.Join(items, ", ")
}

// checkText validates a part of a spec: printable ASCII without spaces, of minLen to
// 64 bytes.
func checkText(what, s string, minLen int) error {
	const maxLen = 64
	switch {
	case len(s) < minLen:
		return fmt.Errorf("%s is missing", what)
	case len(s) > maxLen:
		return fmt.Errorf("%s is longer than %d bytes", what, maxLen)
	}
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("%s must be printable ASCII without spaces, got %q", what, r)
		}
	}
	return nil
}
