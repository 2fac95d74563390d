// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/bucketring/bucketring/internal/amount"
)

// plainInterval is how often progress is printed without a terminal.
const plainInterval = 5 * time.Second

// LiveOptions configure [Live].
type LiveOptions struct {
	// Terminal redraws one line in place. Otherwise there is a new line for every 5 s of
	// the run.
	Terminal bool
	Colour   bool
	// Width returns the columns of the terminal. It is called at every update. Nil means
	// 80.
	Width func() int
	// Total is the length of the run; 0 if it is unknown.
	Total time.Duration
}

// DetectLive returns options for a file. They redraw a line only on a terminal, outside
// CI and unless TERM=dumb. See [Colour] for colours.
func DetectLive(f *os.File, total time.Duration) LiveOptions {
	fd := int(f.Fd())
	tty := term.IsTerminal(fd) && os.Getenv("TERM") != "dumb" && os.Getenv("CI") == ""
	return LiveOptions{
		Terminal: tty, Colour: Colour(f), Total: total,
		Width: func() int {
			if w, _, err := term.GetSize(fd); err == nil && w > 0 {
				return w
			}
			return 80
		},
	}
}

// Colour reports whether text for a file should be coloured: if it is a terminal, unless
// NO_COLOR or CI is set or TERM=dumb.
func Colour(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("CI") == "" && os.Getenv("TERM") != "dumb"
}

// Live shows the progress of a run. It is safe for concurrent use and starts no goroutine.
// Errors of the writer are ignored.
type Live struct {
	w io.Writer
	o LiveOptions

	mu        sync.Mutex
	name      string        // of the target
	rates     []float64     // latest rates, for the sparkline
	sum       Counts        // since the last plain line
	worst     time.Duration // highest p99 since the last plain line
	since     time.Duration // end of the last plain line
	until     time.Duration // end of the last interval
	lineShown bool          // a line is shown that will be redrawn
	stepShown bool          // the line is from Step and will be erased
	closed    bool
}

// NewLive returns a Live that writes to w.
func NewLive(w io.Writer, o LiveOptions) *Live {
	if o.Width == nil {
		o.Width = func() int { return 80 }
	}
	return &Live{w: w, o: o}
}

// Begin starts a turn of a target. Its intervals start at zero.
func (l *Live) Begin(target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	l.name = clean(target, 24)
	l.rates, l.sum, l.worst, l.since, l.until = nil, Counts{}, 0, 0, 0
}

// End ends the turn of the target.
func (l *Live) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
}

// Step shows on a terminal what is being done outside of turns. The next output replaces
// it.
func (l *Live) Step(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !l.o.Terminal {
		return
	}
	l.clear()
	fmt.Fprint(l.w, clean(text, max(l.o.Width()-1, 10)))
	l.stepShown = true
}

// Update shows the next interval.
func (l *Live) Update(iv Interval) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.until = iv.At + iv.Length
	if l.o.Terminal {
		if l.rates = append(l.rates, perSecond(iv.Achieved, iv.Length)); len(l.rates) > 60 {
			l.rates = l.rates[1:]
		}
		fmt.Fprint(l.w, "\r\x1b[K"+l.line(&iv))
		l.lineShown, l.stepShown = true, false
		return
	}
	l.sum.add(iv.Counts)
	l.worst = max(l.worst, iv.P99)
	if l.until-l.since >= plainInterval {
		l.plain()
	}
}

// Note prints a line, such as a fault that was injected.
func (l *Live) Note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.clear()
	fmt.Fprintln(l.w, clean(text, 300))
}

// Close prints what was not shown yet and ends the line. Later calls do nothing.
func (l *Live) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.flush()
	l.closed = true
}

func (l *Live) flush() {
	if l.stepShown {
		l.clear()
	}
	if l.lineShown {
		fmt.Fprintln(l.w)
		l.lineShown = false
	}
	if !l.o.Terminal && l.until > l.since {
		l.plain()
	}
}

func (l *Live) clear() {
	if l.lineShown || l.stepShown {
		fmt.Fprint(l.w, "\r\x1b[K")
		l.lineShown, l.stepShown = false, false
	}
}

// line returns the line of an interval. If it is too long for the terminal it loses the
// sparkline first, then the name, then the bar.
func (l *Live) line(iv *Interval) string {
	style := newStyle(l.o.Colour)
	width := max(l.o.Width()-1, 10) // a full line would wrap on some terminals
	numbers := fmt.Sprintf("%s/s  p99 %s", formatRate(perSecond(iv.Achieved, iv.Length)), formatP99(iv.P99))
	denied := ""
	if iv.Denied > 0 {
		denied = "  denied " + formatPercent(share(iv.Denied, iv.Achieved))
	}
	bad := ""
	if iv.Refused > 0 {
		bad = "  refused " + formatPercent(share(iv.Refused, iv.Offered))
	}
	if n := iv.Failed + iv.Dropped; n > 0 {
		bad += "  failed " + amount.Group(n)
	}
	at := l.clock()
	used := utf8.RuneCountInString(at + "  " + numbers + denied + bad)
	if used > width {
		return clean(at+"  "+numbers+denied+bad, width)
	}
	out := at + "  "
	if bar := l.bar(12); bar != "" && used+utf8.RuneCountInString(bar)+2 <= width {
		out += style.dim(bar) + "  "
		used += utf8.RuneCountInString(bar) + 2
	}
	if l.name != "" && used+utf8.RuneCountInString(l.name)+2 <= width {
		out = style.bold(l.name) + "  " + out
		used += utf8.RuneCountInString(l.name) + 2
	}
	out += numbers + denied
	if bad != "" {
		out += style.red(bad)
	}
	if room := min(width-used-2, 40); room >= 8 {
		out += "  " + style.green(sparkline(l.rates, room))
	}
	return out
}

// clock returns the time of the run, and the total if that is known.
func (l *Live) clock() string {
	at := l.until.Round(time.Second)
	if l.o.Total <= 0 {
		return formatElapsed(at)
	}
	return formatElapsed(min(at, l.o.Total)) + " of " + formatElapsed(l.o.Total)
}

func (l *Live) bar(width int) string {
	if l.o.Total <= 0 {
		return ""
	}
	full := int(min(float64(l.until)/float64(l.o.Total), 1) * float64(width))
	return strings.Repeat("━", full) + strings.Repeat("╌", width-full)
}

// plain prints a line about the time since the last one.
func (l *Live) plain() {
	length := l.until - l.since
	name := ""
	if l.name != "" {
		name = strings.TrimSuffix(l.name, ":") + ": " // the name "null:" ends in a colon
	}
	refused := ""
	if l.sum.Refused > 0 {
		refused = ", refused " + formatPercent(share(l.sum.Refused, l.sum.Offered))
	}
	fmt.Fprintf(l.w, "%s%s: offered %s/s, achieved %s/s, p99 at most %s, denied %s, failed %s%s\n", name, l.clock(),
		formatRate(perSecond(l.sum.Offered, length)), formatRate(perSecond(l.sum.Achieved, length)), formatP99(l.worst),
		formatPercent(share(l.sum.Denied, l.sum.Achieved)), amount.Group(l.sum.Failed+l.sum.Dropped), refused)
	l.sum, l.worst, l.since = Counts{}, 0, l.until
}

func (c *Counts) add(o Counts) {
	c.Offered += o.Offered
	c.Achieved += o.Achieved
	c.Denied += o.Denied
	c.Degraded += o.Degraded
	c.Failed += o.Failed
	c.Refused += o.Refused
	c.Dropped += o.Dropped
}

// formatP99 formats a p99, which is 0 in the warm-up.
func formatP99(p99 time.Duration) string {
	if p99 == 0 {
		return "-"
	}
	return formatDuration(p99)
}

// sparkline draws the latest values, scaled to the highest of them.
func sparkline(values []float64, width int) string {
	if len(values) > width {
		values = values[len(values)-width:]
	}
	highest := 0.0
	for _, v := range values {
		highest = max(highest, v)
	}
	bars := []rune("▁▂▃▄▅▆▇█")
	out := make([]rune, len(values))
	for i, v := range values {
		n := 0
		if highest > 0 {
			n = int(v / highest * float64(len(bars)-1))
		}
		out[i] = bars[n]
	}
	return string(out)
}
