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
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// A File is one file of a policy.
type File = yamldoc.File

// Parse compiles a policy of one file. See [ParseFiles].
func Parse(file string, src []byte, catalog *limiter.Catalog) (*Policy, error) {
	return ParseFiles([]File{{Name: file, Source: src}}, catalog)
}

// ParseFiles compiles all files together as one policy. Nothing may be defined
// twice, not even in two files. The error is a [Problems]; the catalog is then
// unchanged.
func ParseFiles(files []File, catalog *limiter.Catalog) (*Policy, error) {
	return parseFiles(files, catalog, mostOfAll)
}

func parseFiles(files []File, catalog *limiter.Catalog, most counts) (*Policy, error) {
	p := parser{first: map[string]yamldoc.Node{}, most: most, r: yamldoc.Reader{RedactSection: apiKeysSection, Synonyms: startKeys}}
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
	// Compiling against a temporary catalog finds the remaining problems, so that a
	// policy that cannot be used adds nothing to the real one.
	p.compile(limiter.NewCatalog())
	if err := p.r.Err(); err != nil {
		return nil, err
	}
	policy := p.compile(catalog)
	if err := p.r.Err(); err != nil {
		return nil, err
	}
	policy.computeDigest()
	policy.warnings = p.warn(policy)
	return policy, nil
}

// defaultOutputTokens is the maximum output of a reserve that gives none, unless
// the policy has a default of its own.
const defaultOutputTokens = 1024

// parser collects the definitions of all files. Those with problems are reported
// and left out.
type parser struct {
	r     yamldoc.Reader
	root  yamldoc.Node            // of the first file
	first map[string]yamldoc.Node // where each thing was first defined

	tiers         []*tierDef
	tierNames     []string // including tiers with problems
	defaultTier   reference
	assign        []assignDef
	prices        []rankedEntry[price]
	weights       []rankedEntry[limiter.Weights]
	outputs       []rankedEntry[int64]
	bounds        []rankedEntry[bool]
	apiKeys       []apiKeyDef
	defaultOutput *int64

	most         counts
	combinations int // of models of limits, so far
	suggestions  int // for tiers that are not defined, so far
}

// counts bounds what all files together define.
type counts struct{ tiers, limits, rules, models, apiKeys int }

// mostOfAll are the bounds of every policy; limits is for each tier.
var mostOfAll = counts{tiers: 100_000, limits: 256, rules: 1_000_000, models: 100_000, apiKeys: 1_000_000}

// maxSuggestions bounds how many wrong names of tiers are compared with the defined ones.
const maxSuggestions = 100

// once reports a problem unless the same kind was reported.
func (p *parser) once(kind string, n yamldoc.Node, format string, args ...any) {
	if _, reported := p.first["problem "+kind]; !reported {
		p.first["problem "+kind] = n
		p.r.Problem(n, format, args...)
	}
}

// room reports whether one more thing may be defined, of which there are have already.
// That there are too many is reported once.
func (p *parser) room(n yamldoc.Node, what string, have, most int) bool {
	if have >= most {
		p.once(what, n, "a policy may have at most %d %s, and this is one more", most, what)
	}
	return have < most
}

// reference is the name of a tier where it is used.
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
			if p.define(f.Key, "default_tier") {
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
			if n, ok := p.count(f.Value, f.Name); ok && p.define(f.Key, f.Name) {
				p.defaultOutput = &n
			}
		}
	}
}

// define records that n defines what. A second definition is a problem; it then
// returns false.
func (p *parser) define(n yamldoc.Node, what string) bool {
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
		if !p.room(d.at, "assign rules", len(p.assign), p.most.rules) {
			break
		}
		p.first["assign "+d.pattern.text] = d.at
		p.assign = append(p.assign, d)
	}
}

// keyPattern reads the key of an assign rule. A pattern that no key matches is a
// problem.
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
		p.r.Problem(n, "key %q has %d segments: no key matches it, because keys have at most %d", text, len(segments), limiter.MaxLevels)
		return "", false
	}
	return text, true
}

// Bounds in bytes: maxName of keys and names of models, maxWord of names of tiers,
// limits and dimensions.
const (
	maxName = 256
	maxWord = 64
)

// patternText reads a name that may have stars.
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
		problem = fmt.Sprintf("must not have a double star, got %q: write one", text)
		if what == "key" {
			problem += "; a star stays within one segment"
		}
	case strings.Count(text, "*") > maxStars:
		problem = fmt.Sprintf("must have at most %d stars, got %d", maxStars, strings.Count(text, "*"))
	default:
		return text, true
	}
	p.r.Problem(n, "%s %s", what, problem)
	return "", false
}

var nameSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*$`)

// name reads the name of a tier or a limit. Its syntax is safe in headers and
// metrics.
func (p *parser) name(n yamldoc.Node, what string) (string, bool) {
	name, ok := p.r.Text(n, what)
	if ok && (len(name) > maxWord || !nameSyntax.MatchString(name)) {
		p.r.Problem(n, "%s must be 1 to %d letters, digits and any of . _ : -, got %s", what, maxWord, text.Quote(name))
		return "", false
	}
	return name, ok
}

// count reads a whole number.
func (p *parser) count(n yamldoc.Node, what string) (int64, bool) {
	return p.number(n, what, parseCount)
}

func (p *parser) boolean(n yamldoc.Node, what string) (value, ok bool) {
	i, ok := p.r.Word(n, what, "false", "true")
	return i == 1, ok
}

func (p *parser) number(n yamldoc.Node, what string, parse func(string) (int64, error)) (int64, bool) {
	value, ok := p.r.Text(n, what)
	if !ok {
		return 0, false
	}
	v, err := parse(value)
	if err != nil {
		p.r.Problem(n, "%s %v, got %s", what, err, text.Quote(value))
		return 0, false
	}
	return v, true
}

// checkReferences reports tiers that are used but not defined.
func (p *parser) checkReferences() {
	if len(p.tierNames) == 0 {
		p.r.Problem(p.root, "a policy needs at least one tier, under tiers")
		return
	}
	check := func(ref reference) {
		if _, defined := p.first[tierKey(ref.name)]; !defined && ref.name != "" {
			p.r.Suggest(ref.at, p.nearestTier(ref.name), "tier %q is not defined", ref.name)
		}
	}
	check(p.defaultTier)
	for _, d := range p.assign {
		check(d.tier)
	}
	for _, d := range p.apiKeys {
		if _, defined := p.first[tierKey(d.tier.name)]; !defined && d.tier.name != "" {
			p.r.Suggest(d.tier.at, p.nearestTier(d.tier.name), "tier is not defined")
		}
	}
}

func (p *parser) nearestTier(name string) string {
	if p.suggestions++; p.suggestions > maxSuggestions {
		return ""
	}
	return nearest.Word(name, p.tierNames)
}

func tierKey(name string) string { return fmt.Sprintf("tier %q", name) }
