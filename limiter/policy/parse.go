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
	return parseFiles(files, catalog, mostOfAll, nil)
}

// ParseFilesSlowly is [ParseFiles] that calls pause after every few hundred rows, which may
// wait, so that a large policy leaves processor time to calls.
func ParseFilesSlowly(files []File, catalog *limiter.Catalog, pause func()) (*Policy, error) {
	return parseFiles(files, catalog, mostOfAll, pause)
}

func parseFiles(files []File, catalog *limiter.Catalog, most counts, pause func()) (*Policy, error) {
	p := newParser(most)
	p.r.Pause = pause
	defer p.r.Release()
	draft := p.parseBase(files)
	rows := newRowsEdit(p, rows{}, p.tierNames)
	rows.retier(p.tierNames)
	for _, s := range p.sections {
		p.parseSection(rows, s)
	}
	rows.finish(draft)
	if err := p.r.Err(); err != nil {
		return nil, err
	}
	policy := p.compile(catalog)
	if err := p.r.Err(); err != nil {
		return nil, err
	}
	policy.computeBase()
	rows.finish(policy)
	policy.warnings = p.warn(policy)
	return policy.complete(), nil
}

func newParser(most counts) *parser {
	return &parser{first: map[string]yamldoc.Node{}, most: most, r: yamldoc.Reader{RedactSection: apiKeysSection, RowSections: rowSections, Synonyms: synonyms}}
}

// parseBase reads all of the files but the sections with rows. It returns a policy without
// rows for checks, compiled against a catalog of its own.
func (p *parser) parseBase(files []File) (draft *Policy) {
	for i, f := range files {
		root, ok := p.r.Open(f.Name, f.Source)
		p.unread = p.unread || !ok
		if i == 0 {
			p.root = root
		}
		if root.Exists() && !root.IsNull() {
			p.file(root)
		}
	}
	if len(files) == 0 {
		p.root, _ = p.r.Open("policy", nil)
	}
	if !p.unread {
		p.checkReferences()
	}
	// Compiling against a temporary catalog finds the remaining problems, so that a
	// policy that cannot be used adds nothing to the real one.
	draft = p.compile(limiter.NewCatalog())
	p.broken = p.r.Err() != nil
	return draft
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
	wrongTiers    bool     // tiers is no mapping
	defaultTier   reference
	prices        []rankedEntry[price]
	weights       []rankedEntry[limiter.Weights]
	outputs       []rankedEntry[int64]
	bounds        []rankedEntry[bool]
	defaultOutput *int64
	sections      []section // of rows, which are read last
	unread        bool      // a file is not readable, and may have what others refer to
	broken        bool      // limits may be missing because of problems
	unnamed       bool      // there may be limits that limitNames of tiers do not have

	most         counts
	combinations int // of models of limits, so far
	suggestions  int // for tiers that are not defined, so far
}

// counts bounds what all files together define.
type counts struct{ tiers, limits, rules, models, apiKeys, overrides int }

// mostOfAll are the bounds of every policy; limits is for each tier.
var mostOfAll = counts{tiers: 100_000, limits: 256, rules: 2_000_000, models: 100_000, apiKeys: 2_000_000, overrides: 100_000}

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

// section is a section with rows.
type section struct {
	name       string
	key, value yamldoc.Node
}

var rootKeys = []string{"tiers", "default_tier", assignSection, "prices", "models", apiKeysSection, overridesSection, "default_output_tokens"}

func (p *parser) file(root yamldoc.Node) {
	for _, f := range p.r.Fields(root, "a policy", rootKeys) {
		switch f.Name {
		case "tiers":
			p.wrongTiers = p.wrongTiers || !f.Value.IsMapping() && !f.Value.IsNull()
			p.unnamed = p.unnamed || p.wrongTiers
			p.parseTiers(f.Value)
		case "default_tier":
			if p.define(f.Key, "default_tier") {
				p.defaultTier.name, _ = p.name(f.Value, "default_tier")
				p.defaultTier.at = f.Value
			}
		case assignSection, apiKeysSection, overridesSection:
			p.sections = append(p.sections, section{f.Name, f.Key, f.Value})
		case "prices":
			p.parsePrices(f.Value)
		case "models":
			p.parseModels(f.Value)
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
	if problem := patternProblem(text); problem != "" {
		p.r.Problem(n, "%s %s", what, problem)
		return "", false
	}
	return text, true
}

// patternProblem says what is wrong with a name that may have stars; nothing if it can be
// used.
func patternProblem(text string) string {
	switch {
	case text == "":
		return "must not be empty"
	case len(text) > maxName:
		return fmt.Sprintf("must have at most %d bytes, got %d", maxName, len(text))
	case !printable(text):
		return fmt.Sprintf("must be printable, got %q", text)
	case strings.Contains(text, "**"):
		return fmt.Sprintf("must not have a double star, got %q: write one", text)
	case strings.Count(text, "*") > maxStars:
		return fmt.Sprintf("must have at most %d stars, got %d", maxStars, strings.Count(text, "*"))
	}
	return ""
}

func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError })
		}
	}
	return true
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
		if p.wrongTiers { // which is reported
			return
		}
		p.r.Problem(p.root, "a policy needs at least one tier, under tiers")
		return
	}
	check := func(ref reference) {
		if _, defined := p.first[tierKey(ref.name)]; !defined && ref.name != "" {
			p.r.Suggest(ref.at, p.nearestTier(ref.name), "tier %q is not defined", ref.name)
		}
	}
	check(p.defaultTier)
}

// mayHave reports whether a limit with a name may be missing because of problems.
func (p *parser) mayHave(limit string) bool {
	return p.unread || p.unnamed || p.broken && slices.ContainsFunc(p.tiers, func(t *tierDef) bool {
		_, named := t.limitNames[limit]
		return named
	})
}

func (p *parser) nearestTier(name string) string {
	if p.suggestions++; p.suggestions > maxSuggestions {
		return ""
	}
	return nearest.Word(name, p.tierNames)
}

func tierKey(name string) string { return fmt.Sprintf("tier %q", name) }
