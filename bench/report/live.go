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
)

// plainEvery is how often a run is reported where no line can be redrawn.
const plainEvery = 5 * time.Second

// LiveOptions say where progress is shown.
type LiveOptions struct {
	// Terminal: the line is redrawn in place. If not, there is a new line every
	// 5 s of the run.
	Terminal bool
	Colour   bool
	// Width returns the columns of the terminal, at every update; 80 if nil.
	Width func() int
	// Total is how long the run will take; zero if nobody knows.
	Total time.Duration
}

// Detect returns the options for a file: a line in place on a terminal, and
// plain text elsewhere, in CI and with TERM=dumb; colours unless NO_COLOR says
// otherwise.
func Detect(f *os.File, total time.Duration) LiveOptions {
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

// Colour reports whether text for a file should be coloured.
func Colour(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("CI") == "" && os.Getenv("TERM") != "dumb"
}

// Live shows how a run is going. It is safe for concurrent use, and keeps no
// goroutine. Errors of the writer are ignored: progress is not worth a run.
type Live struct {
	w io.Writer
	o LiveOptions

	mu     sync.Mutex
	name   string        // of the target
	rates  []float64     // the latest, for the sparkline
	sum    Counts        // since the last plain line
	worst  time.Duration // p99 since the last plain line
	since  time.Duration // the end of the last plain line
	until  time.Duration // the end of the last interval
	drawn  bool          // a line stands there and will be redrawn
	step   bool          // it is one of Step, which is not kept
	closed bool
}

// NewLive shows the progress of a run on w.
func NewLive(w io.Writer, o LiveOptions) *Live {
	if o.Width == nil {
		o.Width = func() int { return 80 }
	}
	return &Live{w: w, o: o}
}

// Begin says which target comes now; its intervals start at zero again.
func (l *Live) Begin(target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	l.name = clean(target, 24)
	l.rates, l.sum, l.worst, l.since, l.until = nil, Counts{}, 0, 0, 0
}

// End says that the turn of the target is over.
func (l *Live) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
}

// Step shows what is being done before or between runs, where a line can be
// redrawn; what comes next takes its place.
func (l *Live) Step(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !l.o.Terminal {
		return
	}
	l.clear()
	fmt.Fprint(l.w, clean(text, max(l.o.Width()-1, 10)))
	l.step = true
}

// Update shows one more interval.
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
		l.drawn, l.step = true, false
		return
	}
	l.sum.add(iv.Counts)
	l.worst = max(l.worst, iv.P99)
	if l.until-l.since >= plainEvery {
		l.plain()
	}
}

// Note prints a line of its own, such as a fault that was injected.
func (l *Live) Note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.clear()
	fmt.Fprintln(l.w, clean(text, 300))
}

// Close ends the line. What was not reported yet is; more updates do nothing.
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
	if l.step {
		l.clear()
	}
	if l.drawn {
		fmt.Fprintln(l.w)
		l.drawn = false
	}
	if !l.o.Terminal && l.until > l.since {
		l.plain()
	}
}

func (l *Live) clear() {
	if l.drawn || l.step {
		fmt.Fprint(l.w, "\r\x1b[K")
		l.drawn, l.step = false, false
	}
}

// line is the one that is redrawn. What matters least goes first when it is too
// long: the sparkline, the name, the bar.
func (l *Live) line(iv *Interval) string {
	style := styles(l.o.Colour)
	width := max(l.o.Width()-1, 10) // a full line would wrap on some terminals
	numbers := fmt.Sprintf("%s/s  p99 %s", perSec(perSecond(iv.Achieved, iv.Length)), slowest(iv.P99))
	denied := ""
	if iv.Denied > 0 {
		denied = "  denied " + percent(share(iv.Denied, iv.Achieved))
	}
	bad := ""
	if n := iv.Failed + iv.Dropped; n > 0 {
		bad = "  failed " + thousands(n)
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

// clock is the time of the run, and of how much if that is known.
func (l *Live) clock() string {
	at := l.until.Round(time.Second)
	if l.o.Total <= 0 {
		return span(at)
	}
	return span(min(at, l.o.Total)) + " of " + span(l.o.Total)
}

func (l *Live) bar(width int) string {
	if l.o.Total <= 0 {
		return ""
	}
	full := int(min(float64(l.until)/float64(l.o.Total), 1) * float64(width))
	return strings.Repeat("━", full) + strings.Repeat("╌", width-full)
}

// plain prints what happened since the last line.
func (l *Live) plain() {
	length := l.until - l.since
	name := ""
	if l.name != "" {
		name = strings.TrimSuffix(l.name, ":") + ": " // null: has one
	}
	fmt.Fprintf(l.w, "%s%s: offered %s/s, achieved %s/s, p99 at most %s, denied %s, failed %s\n", name, l.clock(),
		perSec(perSecond(l.sum.Offered, length)), perSec(perSecond(l.sum.Achieved, length)), slowest(l.worst),
		percent(share(l.sum.Denied, l.sum.Achieved)), thousands(l.sum.Failed+l.sum.Dropped))
	l.sum, l.worst, l.since = Counts{}, 0, l.until
}

func (c *Counts) add(o Counts) {
	c.Offered += o.Offered
	c.Achieved += o.Achieved
	c.Denied += o.Denied
	c.Degraded += o.Degraded
	c.Failed += o.Failed
	c.Dropped += o.Dropped
}

// slowest is a p99, which the warm-up has none of.
func slowest(p99 time.Duration) string {
	if p99 == 0 {
		return "-"
	}
	return duration(p99)
}

// sparkline draws the latest values, from zero to the highest of them.
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
