// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"strings"
)

// Keys is the distribution of keys: one population or a mixture of several. The zero
// value means the default, uniform:10k.
type Keys struct{ parts []population }

// population is a set of keys and how calls are distributed over them.
type population struct {
	kind     keyKind
	share    share   // of all calls
	sizes    []int64 // per level; a single one except for trees
	exponent int64   // of zipf, in thousandths
	key      string  // of hot
}

type keyKind string

const (
	uniformKeys keyKind = "uniform"
	zipfKeys    keyKind = "zipf"
	hotKey      keyKind = "hot"
	treeKeys    keyKind = "orgs"
)

// keyHints are the syntax of each kind.
var keyHints = map[keyKind]string{
	uniformKeys: "write uniform:KEYS such as uniform:1M",
	zipfKeys:    "write zipf:EXPONENTxKEYS such as zipf:1.1x100k",
	hotKey:      "write hot:KEY such as hot:acme/alice, or hot:90%:acme+uniform:10k",
	treeKeys:    "write orgs:ORGSxUSERS such as orgs:100x1000, or orgs:100x10x1000 with teams",
}

const (
	kindsHint   = "write uniform:1M, zipf:1.1x100k, hot:acme/alice, orgs:100x1000, or a mixture such as hot:90%:acme+uniform:10k"
	maxKeys     = 100_000_000
	maxParts    = 16
	maxExponent = 10_000 // thousandths
	maxLevels   = 4      // of a key
	maxHotBytes = 192
)

// ParseKeys parses uniform:1M, zipf:1.1x100k, hot:acme/alice, orgs:100x1000, or a
// mixture such as hot:90%:acme+uniform:10k. Spaces around + are allowed.
func ParseKeys(text string) (Keys, error) {
	if text == "" {
		return Keys{}, nil
	}
	k, err := parseKeys(text)
	if err != nil {
		return Keys{}, inPart("keys", text, kindsHint, err)
	}
	return k, nil
}

func parseKeys(text string) (k Keys, err error) {
	left := fullShare // share of the part that has none
	rest := -1        // index of that part
	for item := range strings.SplitSeq(text, "+") {
		p, err := parsePopulation(strings.TrimSpace(item))
		if err != nil {
			return Keys{}, err
		}
		switch {
		case len(k.parts) == maxParts:
			return Keys{}, fmt.Errorf("a mixture can have at most %d parts", maxParts)
		case p.share > 0:
			left -= p.share
		case rest >= 0:
			return Keys{}, withHint("write shares such as hot:90%:acme+uniform:10k", "only one part may have no share; it gets the rest")
		default:
			rest = len(k.parts)
		}
		k.parts = append(k.parts, p)
	}
	switch {
	case rest >= 0 && left <= 0:
		return Keys{}, errors.New("the shares leave nothing for the part rest a share")
	case rest >= 0:
		k.parts[rest].share = left
	case left != 0:
		return Keys{}, withHint("leave out the share of one part, which then gets the rest", "the shares must add up to 100%%, got %s", fullShare-left)
	}
	return k, nil
}

func parsePopulation(text string) (p population, err error) {
	kind, rest, _ := strings.Cut(text, ":")
	p.kind = keyKind(kind)
	hint, ok := keyHints[p.kind]
	if !ok {
		return p, fmt.Errorf("unknown kind of keys %s", quote(kind))
	}
	if before, after, ok := strings.Cut(rest, ":"); ok && strings.HasSuffix(before, "%") {
		if p.share, err = parseShare(before); err == nil && p.share == 0 {
			err = errors.New("a part must not have a share of 0%")
		}
		rest = after
	}
	if err == nil {
		err = p.parseSize(rest)
	}
	if err != nil {
		return p, withHint(hint, "%s", err)
	}
	return p, nil
}

func (p *population) parseSize(text string) error {
	if text == "" {
		return errors.New("the keys are missing")
	}
	switch p.kind {
	case hotKey:
		p.key, p.sizes = text, []int64{1}
		return checkKey(text)
	case zipfKeys:
		exponent, count, ok := strings.Cut(text, "x")
		if !ok {
			return errors.New("the exponent or the number of keys is missing")
		}
		e, err := parseDecimal(exponent, 3)
		switch {
		case err != nil:
			return fmt.Errorf("the exponent: %w", err)
		case e < 1 || e > maxExponent:
			return fmt.Errorf("the exponent must be above 0 and at most 10, got %s", exponent)
		}
		p.exponent = e
		return p.parseSizes([]string{count})
	case treeKeys:
		sizes := strings.Split(text, "x")
		if len(sizes) < 2 || len(sizes) > maxLevels {
			return fmt.Errorf("a tree has 2 to %d levels, got %d", maxLevels, len(sizes))
		}
		return p.parseSizes(sizes)
	default:
		return p.parseSizes([]string{text})
	}
}

func (p *population) parseSizes(texts []string) error {
	keys := int64(1)
	for _, text := range texts {
		n, err := parseNumber(text, 1, maxKeys)
		if err != nil {
			return fmt.Errorf("the number of keys: %w", err)
		}
		if keys *= n; keys > maxKeys {
			return fmt.Errorf("must be at most %s keys in total", formatNumber(maxKeys))
		}
		p.sizes = append(p.sizes, n)
	}
	return nil
}

// checkKey validates the key of hot. It must not contain the separators of a spec.
func checkKey(key string) error {
	switch {
	case len(key) > maxHotBytes:
		return fmt.Errorf("the key is longer than %d bytes", maxHotBytes)
	case strings.HasPrefix(key, "/") || strings.HasSuffix(key, "/") || strings.Contains(key, "//"):
		return fmt.Errorf("the key %s has an empty segment", quote(key))
	case strings.Count(key, "/") >= maxLevels:
		return fmt.Errorf("the key %s has more than %d segments", quote(key), maxLevels)
	case strings.ContainsAny(key, "+%"):
		return fmt.Errorf("the key %s must not contain + or %%", quote(key))
	}
	for _, r := range key {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("the key must be printable ASCII without spaces, got %q", r)
		}
	}
	return nil
}

func (p *population) count() int64 {
	n := int64(1)
	for _, size := range p.sizes {
		n *= size
	}
	return n
}

// String returns the canonical text, in which the last part has no share.
func (k Keys) String() string {
	var b strings.Builder
	for i, p := range k.parts {
		if i > 0 {
			b.WriteByte('+')
		}
		b.WriteString(string(p.kind) + ":")
		if i < len(k.parts)-1 {
			b.WriteString(p.share.String() + ":")
		}
		b.WriteString(p.sizeText())
	}
	return b.String()
}

func (p *population) sizeText() string {
	if p.kind == hotKey {
		return p.key
	}
	var sizes []string
	if p.kind == zipfKeys {
		sizes = append(sizes, formatDecimal(p.exponent, 3))
	}
	for _, n := range p.sizes {
		sizes = append(sizes, formatNumber(n))
	}
	return strings.Join(sizes, "x")
}

// MarshalText returns the canonical text.
func (k Keys) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText parses text like [ParseKeys].
func (k *Keys) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKeys(string(text))
	return err
}
