// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestCoursesOfARunThatIsRight: it has nothing to complain about, and the picture
// of what was admitted is there all the same, with the faults.
func TestCoursesOfARunThatIsRight(t *testing.T) {
	r := faultRun(t)
	r.Targets[0].Audit.Worst = nil
	var page bytes.Buffer
	if err := WriteHTML(&page, r); err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(page.String(), "Admitted and allowed")
	if !ok {
		t.Fatal("the page has no part on what was admitted")
	}
	section, _, _ = strings.Cut(section, "Resources")
	for _, want := range []string{`id="courses-1-t"`, "acme/user-5 tokens", "with what fallback admitted", "kill node 1", `class="limit"`} {
		if !strings.Contains(section, want) {
			t.Errorf("the part on what was admitted lacks %q", want)
		}
	}
	if n := strings.Count(section, `class="mark"`); n != 12*3 {
		t.Errorf("%d fault marks in 12 pictures, want 36", n)
	}
	if strings.Contains(section, `class="bar bad"`) {
		t.Error("something is drawn beyond a limit")
	}
	alt, err := Alt(r, AdmittedPicture)
	if err != nil || !strings.Contains(alt, "acme/user-0 requests (rpm): at most 1,000 of 1,000 at once") || !strings.Contains(alt, "kill node 1 at 10 s") {
		t.Errorf("Alt() = %q, %v", alt, err)
	}
}

func TestCoursesShowWhatIsTooMuch(t *testing.T) {
	tg := &Target{Name: "a", Duration: 10 * time.Second, Audit: &Audit{Verdict: Violated}}
	if c := coursesChart("c", tg, drawnCourses); c != nil {
		t.Error("a chart of no courses")
	}
	k := UsageSeries{Key: "k", Dimension: "requests", Allowed: 100_000, Step: time.Second}
	for i, used := range []int64{99_999, 100_000, 100_001, 50_000_000} {
		k.Points = append(k.Points, UsagePoint{time.Duration(i) * time.Second, used, used})
	}
	tg.Audit.UsageSeries = []UsageSeries{k}
	c := coursesChart("c", tg, drawnCourses)
	if n := strings.Count(c.canvas.b.String(), `class="bar bad"`); n != 2 {
		t.Errorf("%d steps are drawn beyond the limit, want 2: one call too many is seen", n)
	}
	if strings.Contains(c.canvas.b.String(), "fallback") {
		t.Error("a line of fallback, which admitted nothing")
	}
	if row := strings.Join(c.table.rows[0], "|"); !strings.Contains(row, "100,000|50,000,000|") {
		t.Errorf("row %s, want what was allowed and the most", row)
	}
}

func TestCoursesEach(t *testing.T) {
	for targets, want := range map[int]int{0: 12, 1: 12, 2: 6, 3: 3, 4: 3, 40: 3} {
		if got := coursesEach(targets); got != want {
			t.Errorf("of %d targets %d are drawn each, want %d", targets, got, want)
		}
	}
}
