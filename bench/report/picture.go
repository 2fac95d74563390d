// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/bucketring/bucketring/internal/amount"
)

// Picture is a kind of picture.
type Picture string

// The pictures.
const (
	LatencyPicture  Picture = "latency"
	AdmittedPicture Picture = "admitted"
	OverloadPicture Picture = "overload"
)

// SVG writes one picture as a file. It follows the reader's colour scheme, and has a title
// and a description.
func SVG(w io.Writer, r *Run, kind Picture) error {
	c, err := picture(r, kind)
	if err != nil {
		return err
	}
	// A heading around the chart, since the file is shown alone.
	const pad, heading = 24, 72
	width, height := c.canvas.width+2*pad, c.canvas.height+heading+pad
	sheet := &canvas{width: width, height: height}
	sheet.add("<style>\n%s</style>\n", chartCSS)
	sheet.rect("paper", 0.5, 0.5, width-1, height-1, 12)
	sheet.text("heading", "start", pad, 36, c.title)
	sheet.text("title", "start", pad, 56, clipTo(pictureSubtitle(r), width-2*pad))
	sheet.add(`<g transform="translate(%s %s)">`+"\n%s</g>\n", num(pad), num(heading), c.canvas.b.String())
	_, err = io.WriteString(w, sheet.svg(c.id, c.title, c.description, fmt.Sprintf(` width="%s" height="%s"`, num(width), num(height))))
	return err
}

// Alt returns the alternative text of a picture in one line: what it shows, with its
// numbers.
func Alt(r *Run, kind Picture) (string, error) {
	c, err := picture(r, kind)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(c.title + ". " + strings.TrimSpace(c.description)), nil
}

func picture(r *Run, kind Picture) (*chart, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	var c *chart
	switch kind {
	case LatencyPicture:
		curves := overallCurves(r)
		if len(r.Targets) == 1 {
			if parts := partCurves(&r.Targets[0]); len(curves) == 0 {
				curves = parts
			}
		}
		c = latencyChart("latency", "Latency by percentile", curves)
	case AdmittedPicture:
		groups := auditGroups(r)
		c = auditChart("admitted", "Admitted, as a share of what the limits allow", groups, max(maxLimits/max(len(groups), 1), 3))
		for i := range r.Targets {
			if c == nil { // no findings: show the busiest limits
				c = coursesChart("admitted", &r.Targets[i], drawnCourses)
			}
		}
	case OverloadPicture:
		c = overloadChart(r)
	default:
		return nil, fmt.Errorf("picture: must be latency, admitted or overload, got %q", kind)
	}
	if c == nil {
		return nil, fmt.Errorf("the run has no data for the picture %q", kind)
	}
	return c, nil
}

func pictureSubtitle(r *Run) string {
	s := subtitle(r)
	e := &r.Environment
	if e.CPU != "" {
		s += " · " + clean(e.CPU, 60)
	}
	return s + " · " + amount.Plural(int64(e.Cores), "core")
}
