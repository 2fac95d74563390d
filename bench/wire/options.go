// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench/target"
)

// Options configure a run.
type Options struct {
	// Rounds is how often each row is measured.
	Rounds int
	// Length is the time of a row in a round, without its warm-up.
	Length time.Duration
	// Only selects the rows whose name matches. Nil: all.
	Only *regexp.Regexp
	// Versus are the specs of running targets to compare with, such as
	// redis-lua://localhost:6379; see [target.Open].
	Versus []string
	// Targets are options for the targets of Versus.
	Targets target.Options
	// Gubernator is the path of a program that runs daemons of Gubernator, that of
	// bench/gubernator. Empty: it is not measured.
	Gubernator string
	// Profiles is an existing directory for CPU profiles of this process and of the nodes.
	// Empty: none.
	Profiles string
	// Binary is the bucketring executable. Empty means this executable.
	Binary string
	// Command is shown with the result.
	Command string
	// Progress is called before each row of each round, and may be nil.
	Progress func(done, total int, row string)
}

// Validate returns all problems that can be found before the run, joined.
func (o *Options) Validate() error {
	var problems []error
	if o.Rounds < 1 {
		problems = append(problems, fmt.Errorf("rounds: must be 1 or more, got %d", o.Rounds))
	}
	if o.Length < minLength {
		problems = append(problems, fmt.Errorf("for: must be at least %s, got %s", minLength, o.Length))
	}
	for _, spec := range o.Versus {
		t, err := target.Open(spec, o.targetOptions(spec, 1))
		if err != nil {
			problems = append(problems, fmt.Errorf("vs: %w", err))
			continue
		}
		if err := t.Close(); err != nil {
			problems = append(problems, fmt.Errorf("vs: close %s: %w", t.Name(), err))
		}
	}
	return errors.Join(problems...)
}

const minLength = 50 * time.Millisecond

// plenty is a limit that is never reached.
const plenty = 10_000_000_000

// fourLimits are the limits of a target that keeps them itself, one for each of a node.
var fourLimits = []target.Limit{
	{Dimension: target.Requests, Amount: plenty, Window: time.Minute},
	{Dimension: target.Tokens, Amount: plenty, Window: time.Minute},
	{Dimension: target.InputTokens, Amount: plenty, Window: time.Minute},
	{Dimension: target.OutputTokens, Amount: plenty, Window: time.Minute},
}

// targetOptions returns the options of a target to compare with, with so many limits if it
// keeps them itself.
func (o *Options) targetOptions(spec string, limits int) target.Options {
	options := o.Targets
	options.Timeout = callTimeout
	options.Limits = fourLimits[:limits]
	if !target.SupportsTLS(spec) {
		options.TLS = nil
	}
	if options.TLS != nil {
		options.Insecure = false
	}
	return options
}

// severalLimits reports whether the target of a spec can keep four limits itself.
func severalLimits(spec string) bool {
	kind, _, _ := strings.Cut(spec, ":")
	return slices.Contains([]string{"redis-lua", "rediss-lua"}, kind)
}
