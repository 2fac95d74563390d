// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// defaultMaxDepth is max_depth of a queue that has none.
const defaultMaxDepth = 1000

// percentPlaces is how many decimals a percentage may have: headroom is in millionths.
const percentPlaces = 4

// limitWaiting reads what a limit keeps free for classes, and whether calls may wait at it.
func (p *parser) limitWaiting(d *limitDef, what string) bool {
	ok := true
	if v, has := d.at["queue"]; has {
		ok = p.queue(d, v, what+": queue")
	}
	if v, has := d.at["headroom"]; has {
		ok = p.headroom(d, v, what+": headroom") && ok
	}
	return ok
}

func (p *parser) queue(d *limitDef, n yamldoc.Node, what string) bool {
	q, ok := limiter.Queue{MaxDepth: defaultMaxDepth}, true
	for _, f := range p.r.Fields(n, what, []string{"max_wait", "max_depth"}) {
		switch f.Name {
		case "max_wait":
			var good bool
			q.MaxWait, good = p.maxWait(f.Value, what+": max_wait")
			ok = ok && good
		case "max_depth":
			depth, good := p.number(f.Value, what+": max_depth", func(s string) (int64, error) {
				n, err := parseCount(s)
				if err == nil && (n < 1 || n > limiter.MaxMaxDepth) {
					err = fmt.Errorf("must be from 1 to 1,000,000")
				}
				return n, err
			})
			q.MaxDepth = depth
			ok = ok && good
		}
	}
	if !n.IsMapping() {
		return false
	}
	if ok && q.MaxWait == 0 {
		p.r.Problem(n, "%s needs a max_wait, such as 5s", what)
		return false
	}
	d.Queue = q
	return ok
}

func (p *parser) maxWait(n yamldoc.Node, what string) (time.Duration, bool) {
	value, ok := p.r.Text(n, what)
	if !ok {
		return 0, false
	}
	wait, err := time.ParseDuration(value)
	if err != nil || wait < limiter.MinMaxWait || wait > limiter.MaxMaxWait {
		p.r.Problem(n, "%s must be a duration from 1ms to 10m, such as 5s, got %s", what, text.Quote(value))
		return 0, false
	}
	return wait, true
}

func (p *parser) headroom(d *limitDef, n yamldoc.Node, what string) bool {
	var batch yamldoc.Node
	h, ok := limiter.Headroom{}, true
	for _, f := range p.r.Fields(n, what, []string{"standard", "batch"}) {
		part, good := p.percent(f.Value, what+" of "+f.Name)
		ok = ok && good
		if f.Name == "standard" {
			h.Standard = part
			continue
		}
		h.Batch, batch = part, f.Value
	}
	switch {
	case !n.IsMapping():
		return false
	case !batch.Exists():
		h.Batch = h.Standard
	case ok && h.Batch < h.Standard:
		p.r.Problem(batch, "%s of batch must be at least that of standard, %s, got %s", what, percentText(h.Standard), percentText(h.Batch))
		return false
	}
	d.Headroom = h
	return ok
}

// percent reads a percentage below 100 %, in millionths.
func (p *parser) percent(n yamldoc.Node, what string) (int64, bool) {
	value, ok := p.r.Text(n, what)
	if !ok {
		return 0, false
	}
	number, has := strings.CutSuffix(value, "%")
	part, err := parseDecimal(strings.TrimSpace(number), percentPlaces)
	if !has || err != nil || part >= 1_000_000 {
		p.r.Problem(n, "%s must be a percentage from 0%% to below 100%%, such as 10%%, with at most %d decimals, got %s", what, percentPlaces, text.Quote(value))
		return 0, false
	}
	return part, true
}

func percentText(part int64) string { return formatDecimal(part, percentPlaces) + "%" }

// checkHeadroom reports headroom that leaves a class nothing, because it is rounded up to
// units. A limit of 0 leaves nobody anything.
func (p *parser) checkHeadroom(d *limitDef, what string) bool {
	for _, c := range limiter.Priorities {
		if units := d.Headroom.Units(c, capacity(&d.Limit)); units > 0 && units >= capacity(&d.Limit) {
			p.r.Problem(d.at["headroom"], "%s: headroom leaves nothing for %s: of %s, it is %s", what, c,
				FormatAmount(d.Dimension, capacity(&d.Limit)), FormatAmount(d.Dimension, units))
			return false
		}
	}
	return true
}

// parseWeight reads the weight of a tier.
func (p *parser) parseWeight(n yamldoc.Node) int64 {
	weight, _ := p.number(n, "weight", func(s string) (int64, error) {
		n, err := parseCount(s)
		if err != nil || n < 1 || n > limiter.MaxWeight {
			err = fmt.Errorf("must be a whole number from 1 to %d", limiter.MaxWeight)
		}
		return n, err
	})
	return weight
}

// classes are the default class of the calls of a tier, and the highest that they may ask for.
type classes struct{ usual, highest limiter.Priority }

// usualClasses are those of a tier that names none.
var usualClasses = classes{limiter.Standard, limiter.Interactive}

func (p *parser) parsePriority(n yamldoc.Node) classes {
	var c classes
	var usual yamldoc.Node
	for _, f := range p.r.Fields(n, "priority", []string{"default", "highest"}) {
		i, ok := p.r.Word(f.Value, "priority: "+f.Name, "interactive", "standard", "batch")
		if !ok {
			return usualClasses
		}
		if f.Name == "default" {
			c.usual, usual = limiter.Priorities[i], f.Value
		} else {
			c.highest = limiter.Priorities[i]
		}
	}
	if c.highest == limiter.NoPriority {
		c.highest = limiter.Interactive
	}
	if c.usual == limiter.NoPriority {
		c.usual = max(limiter.Standard, c.highest)
	}
	if c.usual < c.highest {
		p.r.Problem(usual, "priority: default must not be above highest, %s, got %s", c.highest, c.usual)
		return usualClasses
	}
	return c
}

// queueText and headroomText describe what a limit has, "" for nothing.
func queueText(q limiter.Queue) string {
	if q == (limiter.Queue{}) {
		return ""
	}
	return fmt.Sprintf(" queue=%s,%d", FormatDuration(q.MaxWait), q.MaxDepth)
}

func headroomText(h limiter.Headroom) string {
	if h == (limiter.Headroom{}) {
		return ""
	}
	return fmt.Sprintf(" headroom=standard:%s,batch:%s", percentText(h.Standard), percentText(h.Batch))
}
