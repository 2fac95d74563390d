// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"time"

	"github.com/bucketring/bucketring/internal/text"
)

// Priority is the class of a call. Limits may keep headroom for classes, see
// [Limit].Headroom, and classes order those who wait, see package line.
type Priority uint8

// The classes, the most urgent first. NoPriority means the default of the plan.
const (
	NoPriority Priority = iota
	Interactive
	Standard
	Batch
)

// Priorities lists the classes, the most urgent first. It must not be changed.
var Priorities = []Priority{Interactive, Standard, Batch}

var priorityNames = [...]string{"", "interactive", "standard", "batch"}

// String returns the name used in policy files and answers, "" for NoPriority.
func (c Priority) String() string {
	if int(c) < len(priorityNames) {
		return priorityNames[c]
	}
	return "unknown"
}

// ParsePriority returns the class with that name, and NoPriority for "". The error is a
// [*FieldError] for field priority.
func ParsePriority(name string) (Priority, error) {
	for c, known := range priorityNames {
		if name == known {
			return Priority(c), nil
		}
	}
	return NoPriority, &FieldError{Field: "priority", Value: text.Quote(name), Problem: "must be interactive, standard or batch"}
}

// Headroom is what the calls of a class must leave free of a limit, in millionths of its
// capacity. The engine rounds it up to units. Interactive calls may take everything. A less
// urgent class leaves at least as much free as a more urgent one.
type Headroom struct{ Standard, Batch int64 }

// wholeCapacity is the whole capacity of a limit as [Headroom].
const wholeCapacity = 1_000_000

// Units returns how many units of a capacity a call of class c must leave free. NoPriority
// counts as Standard.
func (h Headroom) Units(c Priority, capacity int64) int64 {
	part := h.Standard
	switch c {
	case Interactive:
		return 0
	case Batch:
		part = h.Batch
	}
	return mulWide(part, capacity).divCeil(wholeCapacity)
}

// Queue says whether calls that a limit denies may wait until they fit. The engine never
// makes a call wait: package line and its callers do. The zero value means that they may not.
type Queue struct {
	MaxWait  time.Duration // the longest that a call may wait, all in all
	MaxDepth int64         // how many calls may wait at the limit, per key and model
}

// Bounds of queues.
const (
	MinMaxWait  = time.Millisecond
	MaxMaxWait  = 10 * time.Minute
	MaxMaxDepth = 1_000_000
)

// MaxWeight is the largest [Plan].Weight.
const MaxWeight = 1000

// Class returns the class of a call that asks for one: the default of the plan if it asks for
// none. The error is a [*FieldError] for field priority, if the class is unknown or above the
// highest that the plan allows.
func (p *Plan) Class(asked Priority) (Priority, error) {
	switch {
	case asked == NoPriority:
		return p.defaultClass(), nil
	case asked > Batch:
		return NoPriority, numberError("priority", int64(asked), "must be interactive, standard or batch")
	case asked < p.HighestPriority:
		return NoPriority, &FieldError{Field: "priority", Value: asked.String(), Problem: "must not be above " + p.HighestPriority.String() + ", the highest of tier " + p.Tier}
	}
	return asked, nil
}

// checkPriority returns the error of a class that the plan does not allow. What was decided
// elsewhere is charged in any case.
func (r *Request) checkPriority() error {
	if r.Force {
		return nil
	}
	_, err := r.Plan.Class(r.Priority)
	return err
}

// class returns the class by which a request is decided.
func (r *Request) class() Priority {
	if r.Priority == NoPriority {
		return r.Plan.defaultClass()
	}
	return r.Priority & 3 // unknown ones were refused, but not by Peek
}

// defaultClass returns the class of calls that ask for none.
func (p *Plan) defaultClass() Priority {
	if p.Priority == NoPriority {
		return Standard
	}
	return p.Priority
}
