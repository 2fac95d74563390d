// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// A File is one file of a policy.
type File = yamldoc.File

// Parse compiles a policy of one file. See [ParseFiles].
func Parse(file string, src []byte, catalog *limiter.Catalog) (*Policy, error) {
	return ParseFiles([]File{{Name: file, Source: src}}, catalog)
}

// ParseFiles compiles the sections of all files together. What is defined in
// two files is a problem; so is everything else that makes no sense. The error
// is a [Problems], and then the catalog is as it was.
func ParseFiles(files []File, catalog *limiter.Catalog) (*Policy, error) {
	p := parser{first: map[string]yamldoc.Node{}, r: yamldoc.Reader{Conceal: apiKeysSection}}
	readable := true
	for i, f := range files {
		root, ok := p.r.Open(f.Name, f.Source)
		readable = readable && ok
		if i == 0 {
			p.root = root
		}
		if root.Exists() && !root.IsNull() {
			p.file(root)
		}
	}
	if !readable {
		return nil, p.r.Err()
	}
	if len(files) == 0 {
		p.root, _ = p.r.Open("policy", nil)
	}
	p.checkReferences()
	// A scratch catalog finds the remaining problems, so that a policy which
	// can't be used leaves nothing in the real one.
	p.compile(limiter.NewCatalog())
	if err := p.r.Err(); err != nil {
		return nil, err
	}
	return p.compile(catalog), p.r.Err()
}

// defaultOutputTokens is the max output of a reserve that names none, under a
// policy that names none.
const defaultOutputTokens = 1024

// parser collects what the files say. Definitions that are wrong are reported
// and left out.
type parser struct {
	r     yamldoc.Reader
	root  yamldoc.Node            // of the first file
	first map[string]yamldoc.Node // where each thing was first defined

	tiers         []*tierDef
	tierNames     []string // also of those with problems
	defaultTier   reference
	assign        []assignDef
	prices        []rankedEntry[price]
	weights       []rankedEntry[limiter.Weights]
	outputs       []rankedEntry[int64]
	apiKeys       []apiKeyDef
	defaultOutput *int64
}

// reference is a tier's name where it is used.
type reference struct {
	name string
	at   yamldoc.Node
}

type assignDef struct {
	pattern pattern
	at      yamldoc.Node
	tier    reference
}

var rootKeys = []string{"tiers", "default_tier", "assign", "prices", "models", apiKeysSection, "default_output_tokens"}

func (p *parser) file(root yamldoc.Node) {
	for _, f := range p.r.Fields(root, "a policy", rootKeys) {
		switch f.Name {
		case "tiers":
			p.parseTiers(f.Value)
		case "default_tier":
			if p.once(f.Key, "default_tier") {
				p.defaultTier.name, _ = p.name(f.Value, "default_tier")
				p.defaultTier.at = f.Value
			}
		case "assign":
			p.parseAssign(f.Value)
		case "prices":
			p.parsePrices(f.Value)
		case "models":
			p.parseModels(f.Value)
		case apiKeysSection:
			p.parseAPIKeys(f.Value)
		case "default_output_tokens":
			if n, ok := p.count(f.Value, f.Name); ok && p.once(f.Key, f.Name) {
				p.defaultOutput = &n
			}
		}
	}
}

// once reports whether what is defined at n for the first time; the second is
// a problem.
func (p *parser) once(n yamldoc.Node, what string) bool {
	if first, dup := p.first[what]; dup {
		p.r.Problem(n, "%s is defined twice, first at %s", what, first.At())
		return false
	}
	p.first[what] = n
	return true
}

func (p *parser) parseAssign(n yamldoc.Node) {
	for _, item := range p.r.Items(n, "assign") {
		var d assignDef
		for _, f := range p.r.Fields(item, "an assign rule", []string{"key", "tier"}) {
			switch f.Name {
			case "key":
				if text, ok := p.keyPattern(f.Value); ok {
					d.pattern = newPattern(text)
				}
				d.at = f.Value
			case "tier":
				d.tier.name, _ = p.name(f.Value, "tier")
				d.tier.at = f.Value
			}
		}
		if !item.IsMapping() {
			continue
		}
		if !d.at.Exists() {
			p.r.Problem(item, "an assign rule needs a key")
		}
		if !d.tier.at.Exists() {
			p.r.Problem(item, "an assign rule needs a tier")
		}
		if d.pattern.text == "" || d.tier.at.Exists() && d.tier.name == "" {
			continue
		}
		if first, dup := p.first["assign "+d.pattern.text]; dup {
			p.r.Problem(d.at, "this rule never applies: the rule at %s has the same key", first.At())
			continue
		}
		p.first["assign "+d.pattern.text] = d.at
		p.assign = append(p.assign, d)
	}
}

// keyPattern reads the key of an assign rule and refuses what no key matches.
func (p *parser) keyPattern(n yamldoc.Node) (string, bool) {
	text, ok := p.patternText(n, "key")
	if !ok {
		return "", false
	}
	segments := strings.Split(text, "/")
	if slices.Contains(segments, "") {
		p.r.Problem(n, "key %q has an empty segment: no key matches it", text)
		return "", false
	}
	if len(segments) > limiter.MaxLevels {
		p.r.Problem(n, "key %q has %d segments: no key matches it, they have at most %d", text, len(segments), limiter.MaxLevels)
		return "", false
	}
	return text, true
}

// maxName bounds keys and the names of models, maxWord those of tiers, limits
// and dimensions, in bytes.
const (
	maxName = 256
	maxWord = 64
)

// patternText reads a name that may contain stars.
func (p *parser) patternText(n yamldoc.Node, what string) (string, bool) {
	text, ok := p.r.Text(n, what)
	if !ok {
		return "", false
	}
	problem := ""
	switch {
	case text == "":
		problem = "must not be empty"
	case len(text) > maxName:
		problem = fmt.Sprintf("must have at most %d bytes, got %d", maxName, len(text))
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }):
		problem = fmt.Sprintf("must be printable, got %q", text)
	case strings.Contains(text, "**"):
		problem = fmt.Sprintf("has a double star, got %q: write one", text)
		if what == "key" {
			problem += ", it matches within one segment"
		}
	default:
		return text, true
	}
	p.r.Problem(n, "%s %s", what, problem)
	return "", false
}

var nameSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*$`)

// name reads the name of a tier or a limit, which ends up in headers and
// metrics.
func (p *parser) name(n yamldoc.Node, what string) (string, bool) {
	text, ok := p.r.Text(n, what)
	if ok && (len(text) > maxWord || !nameSyntax.MatchString(text)) {
		p.r.Problem(n, "%s must be 1 to %d letters, digits and any of . _ : -, got %q", what, maxWord, shorten(text))
		return "", false
	}
	return text, ok
}

// count reads a whole number.
func (p *parser) count(n yamldoc.Node, what string) (int64, bool) {
	return p.number(n, what, parseCount)
}

func (p *parser) number(n yamldoc.Node, what string, parse func(string) (int64, error)) (int64, bool) {
	text, ok := p.r.Text(n, what)
	if !ok {
		return 0, false
	}
	v, err := parse(text)
	if err != nil {
		p.r.Problem(n, "%s %v, got %q", what, err, shorten(text))
		return 0, false
	}
	return v, true
}

func shorten(s string) string {
	if len(s) <= 40 {
		return s
	}
	return strings.ToValidUTF8(s[:40], "") + "..."
}

// checkReferences reports tiers that are used and not defined.
func (p *parser) checkReferences() {
	if len(p.tierNames) == 0 {
		p.r.Problem(p.root, "a policy needs at least one tier, under tiers")
		return
	}
	check := func(ref reference) {
		if _, defined := p.first[tierKey(ref.name)]; !defined && ref.name != "" {
			p.r.Suggest(ref.at, nearest.Word(ref.name, p.tierNames), "tier %q is not defined", ref.name)
		}
	}
	check(p.defaultTier)
	for _, d := range p.assign {
		check(d.tier)
	}
	for _, d := range p.apiKeys {
		if _, defined := p.first[tierKey(d.tier.name)]; !defined && d.tier.name != "" {
			p.r.Suggest(d.tier.at, nearest.Word(d.tier.name, p.tierNames), "tier is not defined")
		}
	}
}

func tierKey(name string) string { return fmt.Sprintf("tier %q", name) }
