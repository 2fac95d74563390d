// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

var updateDocs = flag.Bool("update-docs", false, "write docs/slices.svg and the table in docs/slices.md")

// TestSliceCosts measures what slices cost in a model: holders of one key, by the rules of
// package limiter/slice and with the charges of an engine, in virtual time. The page
// docs/slices.md has what it finds, and nothing may be admitted beyond a limit.
func TestSliceCosts(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes millions of calls, one after the other")
	}
	costs := measureSliceCosts(t)
	for _, c := range costs.edges {
		if c.members.early != 0 {
			t.Errorf("a limit that lasts %v: members are denied %d early although they answer the recall, want 0", c.lasts, c.members.early)
		}
		if c.lasts >= 2*time.Second && c.clients.early > c.limit/50 {
			t.Errorf("a limit that lasts %v: clients are denied %d of %d early, want less than 2 %%", c.lasts, c.clients.early, c.limit)
		}
	}
	table, picture := costs.table(), costs.picture()
	dir := filepath.Join("..", "docs")
	page, err := os.ReadFile(filepath.Join(dir, "slices.md"))
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- costs -->\n", "<!-- end of costs -->"
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatal("docs/slices.md has no place for the costs")
	}
	for name, want := range map[string]string{"slices.md": before + begin + table + end + after, "slices.svg": picture} {
		file := filepath.Join(dir, name)
		if *updateDocs {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s is not what is measured (%v); if it should be, run go test ./limiter -run TestSliceCosts -update-docs", file, err)
		}
	}
}

// studyRate is how many calls per second all holders of the model get.
const studyRate = 4_000

// sliceStudy is a key with one limit that does not refill, and those who hold slices of it. A
// message takes no time.
type sliceStudy struct {
	*node
	random  *rand.Rand
	request *limiter.Request
	now     limiter.Time
	limit   int64
	client  bool // the holders are clients
	silent  bool // they do not answer recalls
	busy    int  // how many of the holders get the calls
	holders []studyHolder
	lent    int // slices, for their ids

	sliceCosts
}

// sliceCosts is what a study finds. Amounts are calls.
type sliceCosts struct {
	admitted, fromSlices int64
	early                int64 // room at the first denial
	denied               bool
	lost                 int64 // room in the end, when no slice is left
}

type studyHolder struct {
	id          string // of its slice; "": none
	dead        bool
	lent, spent int64
	until       int64 // when its slice is over
	asked       int64 // when it last got one
}

func newSliceStudy(t *testing.T, holders int, lasts time.Duration, client bool) *sliceStudy {
	limit := int64(studyRate * lasts / time.Second)
	s := &sliceStudy{
		node: newNode(t, limiter.Options{}), random: rand.New(rand.NewPCG(1, 2)), now: noon,
		limit: limit, client: client, holders: make([]studyHolder, holders), busy: holders,
	}
	l := requestsOf(limiter.FixedWindow, limit, 24*time.Hour)
	l.Slices = limiter.SlicesClients
	s.request = &limiter.Request{Key: "hot", Plan: s.plan("hot", l), Requests: 1}
	for i := range s.holders {
		s.holders[i].asked = noon.Mono - int64(time.Hour)
	}
	return s
}

// call is one call at a holder, after the time between two calls.
func (s *sliceStudy) call() {
	s.now = s.now.Add(time.Second / studyRate)
	h := &s.holders[s.random.IntN(s.busy)]
	if h.dead {
		return
	}
	s.endOver()
	renews := 2*h.spent >= h.lent && s.now.Mono-h.asked >= int64(20*time.Millisecond)
	if h.id != "" && h.spent < h.lent && !renews {
		h.spent++
		s.admitted++
		s.fromSlices++
		return
	}
	d := s.check(s.now, s.request)
	if d.Outcome != limiter.Allowed && !s.client && !s.silent {
		s.recall()
		d = s.check(s.now, s.request)
	}
	if d.Outcome != limiter.Allowed {
		if !s.denied {
			s.denied, s.early = true, s.limit-s.admitted
		}
		return
	}
	s.admitted++
	s.lend(h)
}

// lend lends a slice with the answer to a call that was admitted.
func (s *sliceStudy) lend(h *studyHolder) {
	if s.now.Mono-h.asked < int64(10*time.Millisecond) {
		return
	}
	holding := 1
	for i := range s.holders {
		if o := &s.holders[i]; o != h && o.id != "" {
			holding++
		}
	}
	n := int64(len(s.holders))
	s.lent++
	l := &limiter.Loan{ID: fmt.Sprint("slice", s.lent), Client: s.client, Share: 1000 / n, Rate: studyRate / n, Holders: holding}
	var d limiter.Decision
	ok, err := s.Lend(s.now, s.request, l, &d)
	if err != nil {
		s.t.Fatal(err)
	}
	h.asked = s.now.Mono
	if ok {
		s.giveBack(h)
		h.id, h.lent, h.spent, h.until = l.ID, l.Amounts[0], 0, s.now.Mono+int64(l.Lease)
	}
}

// endOver returns the slices whose lease has ended.
func (s *sliceStudy) endOver() {
	for i := range s.holders {
		if h := &s.holders[i]; h.id != "" && s.now.Mono >= h.until {
			s.giveBack(h)
		}
	}
}

func (s *sliceStudy) recall() {
	for i := range s.holders {
		s.giveBack(&s.holders[i])
	}
}

func (s *sliceStudy) giveBack(h *studyHolder) {
	if h.id != "" && !h.dead {
		s.returnSlice(s.now, "hot", h.id, h.spent)
		h.id, h.lent, h.spent = "", 0, 0
	}
}

// outstanding is what is lent and not spent.
func (s *sliceStudy) outstanding() (n int64) {
	for i := range s.holders {
		n += s.holders[i].lent - s.holders[i].spent
	}
	return n
}

// finish makes calls until one is denied, and again when all slices are over, and judges.
func (s *sliceStudy) finish() sliceCosts {
	for !s.denied {
		s.call()
	}
	found := s.sliceCosts
	s.recall()                                        // what is not returned is over later
	s.now, s.denied = s.now.Add(4*time.Second), false // longer than an owner keeps a slice
	for !s.denied {
		s.call()
	}
	if found.lost = s.early; found.lost < 0 {
		s.t.Errorf("%d calls admitted beyond a limit of %d", -found.lost, s.limit)
	}
	return found
}

// steadyCost is what a number of holders has on average while the limit is far away.
type steadyCost struct {
	holders                          int
	members, clients                 time.Duration // in which all would spend what is lent and not spent
	membersAnswered, clientsAnswered int64         // percent of the calls from slices
}

// edgeCost is what slices cost at the end of a limit that lasts for a time, with four
// holders: the most if all calls move to one of them at some moment, and if one of them dies.
type edgeCost struct {
	lasts                          time.Duration
	members, silent, clients, dead sliceCosts
	limit                          int64
}

// momentOf is a moment of a limit that four members use up.
type momentOf struct {
	at             time.Duration
	admitted, lent int64
}

type measuredCosts struct {
	steady []steadyCost
	edges  []edgeCost
	course []momentOf
	limit  int64 // of course
}

const edgeHolders = 4

func measureSliceCosts(t *testing.T) *measuredCosts {
	m := &measuredCosts{}
	steady := func(holders int, client bool) (time.Duration, int64) {
		s := newSliceStudy(t, holders, 60*time.Second, client)
		sum, n := int64(0), int64(0)
		for i := range 10 * studyRate {
			if s.call(); i >= 2*studyRate {
				sum += s.outstanding()
				n++
			}
		}
		return time.Duration(sum/n) * time.Second / studyRate, s.fromSlices * 100 / s.admitted
	}
	for _, holders := range []int{1, 4, 16, 64, 256} {
		c := steadyCost{holders: holders}
		c.members, c.membersAnswered = steady(holders, false)
		c.clients, c.clientsAnswered = steady(holders, true)
		m.steady = append(m.steady, c)
	}
	for _, lasts := range []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second} {
		// The fault happens after a part of the limit, in percent.
		edge := func(client, silent bool, percent int64, fault func(*sliceStudy)) sliceCosts {
			s := newSliceStudy(t, edgeHolders, lasts, client)
			s.silent = silent
			for s.admitted < s.limit*percent/100 {
				s.call()
			}
			fault(s)
			return s.finish()
		}
		moved := func(client, silent bool) (most sliceCosts) {
			for percent := int64(50); percent < 100; percent += 10 {
				if c := edge(client, silent, percent, func(s *sliceStudy) { s.busy = 1 }); c.early >= most.early {
					most = c
				}
			}
			return most
		}
		m.edges = append(m.edges, edgeCost{
			lasts: lasts, limit: int64(studyRate * lasts / time.Second),
			members: moved(false, false), silent: moved(false, true), clients: moved(true, false),
			dead: edge(false, false, 50, func(s *sliceStudy) { s.holders[0].dead = true }),
		})
	}
	s := newSliceStudy(t, edgeHolders, 10*time.Second, false)
	m.limit = s.limit
	for i := 0; !s.denied; i++ {
		if i%(studyRate/20) == 0 {
			m.course = append(m.course, momentOf{time.Duration(s.now.Mono - noon.Mono), s.admitted, s.outstanding()})
		}
		s.call()
	}
	m.course = append(m.course, momentOf{time.Duration(s.now.Mono - noon.Mono), s.admitted, s.outstanding()})
	return m
}
