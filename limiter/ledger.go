// SPDX-License-Identifier: Apache-2.0

package limiter

// Ledger learns what calls are charged in the end, see [Options].Ledger.
type Ledger interface {
	// Charged is called by the member that applied a charge, once for each change of what
	// a call costs, while the partition is locked: it must not block and must not call the
	// engine. c and all it refers to belong to the engine, and are valid until it returns.
	// Calls of one partition are in order, and not concurrent.
	Charged(c *Charged)
}

// Charged says what a call costs, all in all: a later one with the same root and id
// replaces it.
//
// A check is charged at once. A reservation is charged when it is settled or when its lease
// expires. What follows is the exception: a settle, progress or cancel after the lease has
// expired, and a check or an expired reservation that is withdrawn, because its answer did
// not reach the caller; then it costs nothing. Of reservations that are cancelled in time,
// and of counters, the ledger learns nothing.
type Charged struct {
	Partition int
	// Key, ID and Model are empty if the engine does not know them: the reservation was made
	// before there was a ledger, or at a member without one, and ended by its lease.
	// Model is that of the request, which may have none.
	Key, ID, Model []byte
	// Tier and PolicyVersion are those of the decision.
	Tier          string
	PolicyVersion uint64
	// Status is [NoStatus] for a check, and otherwise [Settled], [Expired] or [Cancelled],
	// which is that of withdrawn checks, too.
	Status Status
	// Late: it comes after the lease has expired, when the call was in the ledger already.
	Late bool
	// ReservedAt is when the reservation was made, and At when it was charged, in Unix
	// nanoseconds by the clock of the owner at that time. ReservedAt is 0 if it is not known.
	ReservedAt, At int64

	Requests int64
	// Input includes Cached and both cache writes.
	Input, Cached, CacheWrite, CacheWrite1h, Output int64
	Images, Searches                                int64
	// Tokens are weighted, as limits on tokens count them.
	Tokens int64
	// Spend is the price in microdollars. It is 0 unless Priced is set.
	Spend  int64
	Priced bool
	// ServiceTier is the one that was given or, of a check, asked for.
	ServiceTier []byte
	// Rejected is that of [Usage].
	Rejected bool
	Costs    []ChargedCost
}

// ChargedCost is the cost in a dimension of the operator.
type ChargedCost struct {
	Dimension []byte
	Amount    int64
}

// ledgerMemory is the memory for what a partition tells the ledger.
type ledgerMemory struct {
	charged Charged
	text    []byte // of the label
}

// maxLabel bounds an encoded label.
const maxLabel = 8 + 10 + MaxKeyBytes + maxIDBytes + maxModelBytes + 3*4 + MaxCosts*(MaxCostNameBytes+12)

// Bounds of texts of requests, which those who serve callers check.
const (
	maxIDBytes    = 512
	maxModelBytes = 512
)

// label is what a ledger must know of a reservation beside its charges.
type label struct {
	reservedAt     int64
	requests       int64
	key, id, model []byte
	costs          []byte // pairs of a name and an amount
}

// appendLabel appends the label of a reserve.
func appendLabel(b []byte, r *Request, now Time) []byte {
	e := encoder{b}
	e.int(now.Wall)
	e.int(r.Requests)
	e.string(r.Key)
	e.string(r.ID)
	e.string(r.Model)
	for i := range r.Costs {
		e.string(string(r.Costs[i].Dimension))
		e.int(r.Costs[i].Amount)
	}
	return e.buf
}

// labelOf decodes a label, whose memory it shares.
func labelOf(b []byte) (l label, err error) {
	d := decoder{buf: b, size: len(b), what: "label"}
	l.reservedAt, l.requests = d.int(), d.natural("requests")
	l.key, l.id = d.bytes(MaxKeyBytes, "key"), d.bytes(maxIDBytes, "id")
	l.model = d.bytes(maxModelBytes, "model")
	l.costs = d.buf
	for n := 0; len(d.buf) > 0 && d.err == nil; n++ {
		if d.bytes(MaxCostNameBytes, "dimension"); d.natural("cost") > MaxAmount || n == MaxCosts {
			d.fail("costs of a label are out of range")
		}
	}
	return l, d.err
}

// appendCosts appends the costs that the label has.
func (l *label) appendCosts(costs []ChargedCost) []ChargedCost {
	for d := (decoder{buf: l.costs}); len(d.buf) > 0; {
		costs = append(costs, ChargedCost{d.bytes(MaxCostNameBytes, "dimension"), d.int()})
	}
	return costs
}

// ledgerMemory returns the memory for the next charge.
func (p *partition) ledgerMemory() *ledgerMemory {
	if p.forLedger == nil {
		p.forLedger = new(ledgerMemory)
	}
	return p.forLedger
}

// labelReservation keeps the label of a reservation, if there is a ledger.
func (p *partition) labelReservation(entry *idEntry, r *Request, now Time) {
	if p.engine.ledger == nil {
		return
	}
	m := p.ledgerMemory()
	m.text = appendLabel(m.text[:0], r, now)
	p.setLabel(entry, m.text)
}

// setLabel stores the label of a reservation, which has none, in blocks as long names are.
// The first bytes are its length.
func (p *partition) setLabel(entry *idEntry, text []byte) {
	next := &p.reservations.at(entry.reservation()).label
	p.labels++
	blockID, b := p.names.alloc()
	*next, next = blockID, &b.next
	b.text[0], b.text[1] = byte(len(text)), byte(len(text)>>8)
	for text = text[copy(b.text[2:], text):]; len(text) > 0; text = text[copy(b.text[:], text):] {
		blockID, b = p.names.alloc()
		*next, next = blockID, &b.next
	}
}

// appendLabelOf appends the label of a reservation to buf, or nothing if it has none.
func (p *partition) appendLabelOf(buf []byte, entry *idEntry) []byte {
	blockID := p.reservations.at(entry.reservation()).label
	if blockID == 0 {
		return buf
	}
	b := p.names.at(blockID)
	left, text := int(b.text[0])|int(b.text[1])<<8, b.text[2:]
	for {
		n := min(left, len(text))
		buf = append(buf, text[:n]...)
		if left -= n; left == 0 {
			return buf
		}
		b = p.names.at(b.next)
		text = b.text[:]
	}
}

// freeLabel removes the label of a reservation, if it has one.
func (p *partition) freeLabel(entry *idEntry) {
	if p.labels == 0 {
		return
	}
	res := p.reservations.at(entry.reservation())
	if res.label == 0 {
		return
	}
	for blockID := res.label; blockID != 0; {
		next := p.names.at(blockID).next
		p.names.free(blockID)
		blockID = next
	}
	res.label = 0
	p.labels--
}

// tellCheck tells the ledger of a check or, if it is withdrawn, that it costs nothing.
func (p *partition) tellCheck(root uint64, r *Request, withdrawn bool, now Time) {
	if p.engine.ledger == nil {
		return
	}
	m := p.ledgerMemory()
	c := m.begin(root, now)
	m.text = appendLabel(m.text[:0], r, now)
	l, _ := labelOf(m.text)
	c.Key, c.ID, c.Model = l.key, l.id, l.model
	c.Tier, c.PolicyVersion = r.Plan.Tier, r.Plan.Version
	if withdrawn {
		c.Status = Cancelled
		p.engine.ledger.Charged(c)
		return
	}
	var v vector
	_ = r.cost(&r.Plan.Rates, Estimate{}, r.OutputTokens, false, &v) // an error has ended the call before
	c.ReservedAt, c.Requests, c.Input, c.Output = now.Wall, r.Requests, r.InputTokens, r.OutputTokens
	c.ServiceTier = append(c.ServiceTier, r.ServiceTier...)
	c.price(&r.Plan.Rates, &v)
	c.Costs = l.appendCosts(c.Costs)
	p.engine.ledger.Charged(c)
}

// tellSettled tells the ledger that a reservation was settled with usage u, of which n and x
// are the amounts and v is the cost, or that there was progress after its lease. It comes
// before the reservation ends.
func (p *partition) tellSettled(root uint64, entry *idEntry, u *Usage, n amounts, x extras, v *vector, now Time) {
	if p.engine.ledger == nil || !u.Final && entry.state() != idExpired {
		return
	}
	m := p.ledgerMemory()
	c := m.begin(root, now)
	l := p.tell(m, entry)
	if len(l.key) == 0 { // it was not labelled
		m.text = append(append(m.text[:0], u.Key...), u.ID...)
		c.Key, c.ID = m.text[:len(u.Key)], m.text[len(u.Key):]
	}
	if c.Status, c.Late = Settled, entry.state() == idExpired; !u.Final {
		c.Status = Expired
	}
	c.ServiceTier, c.Rejected = append(c.ServiceTier, u.ServiceTier...), u.Rejected
	c.use(n, x)
	c.price(&p.terms.at(entry.terms()).Rates, v)
	c.Costs = l.appendCosts(c.Costs)
	for i := range u.Costs {
		c.setCost(u.Costs[i])
	}
	p.engine.ledger.Charged(c)
}

// tellExpired tells the ledger that the lease of a reservation has expired, which costs the
// input or the progress, whichever is more.
func (p *partition) tellExpired(entry *idEntry, input, progress *vector, now Time) {
	if p.engine.ledger == nil {
		return
	}
	m := p.ledgerMemory()
	c := m.begin(p.accounts.at(entry.account()).root, now)
	l := p.tell(m, entry)
	res, rates := p.reservations.at(entry.reservation()), &p.terms.at(entry.terms()).Rates
	c.Status = Expired
	c.use(res.progress, p.extrasOf(entry))
	c.Input = max(c.Input, res.input)
	most := *progress
	for i := range most {
		most[i] = max(most[i], input[i])
	}
	c.price(rates, &most)
	c.Costs = l.appendCosts(c.Costs)
	p.engine.ledger.Charged(c)
}

// tellCancelled tells the ledger that a reservation costs nothing, if it was told that its
// lease has expired. It comes before the reservation ends.
func (p *partition) tellCancelled(root uint64, entry *idEntry, now Time) {
	if p.engine.ledger == nil || entry.state() != idExpired {
		return
	}
	m := p.ledgerMemory()
	c := m.begin(root, now)
	p.tell(m, entry)
	c.Requests, c.Status, c.Late = 0, Cancelled, true
	p.engine.ledger.Charged(c)
}

// begin returns an empty charge.
func (m *ledgerMemory) begin(root uint64, now Time) *Charged {
	c := &m.charged
	*c = Charged{Partition: int(root % Partitions), At: now.Wall, ServiceTier: c.ServiceTier[:0], Costs: c.Costs[:0]}
	return c
}

// tell fills in what is known of a reservation, and returns its label.
func (p *partition) tell(m *ledgerMemory, entry *idEntry) label {
	c, terms := &m.charged, p.terms.at(entry.terms())
	c.Tier, c.PolicyVersion = terms.tier, terms.version
	if m.text = p.appendLabelOf(m.text[:0], entry); len(m.text) == 0 {
		return label{}
	}
	l, _ := labelOf(m.text) // it was checked when it was received
	c.Key, c.ID, c.Model, c.ReservedAt, c.Requests = l.key, l.id, l.model, l.reservedAt, l.requests
	return l
}

func (c *Charged) use(n amounts, x extras) {
	c.Input, c.Cached, c.Output = n.input, n.cached, n.output
	c.CacheWrite, c.CacheWrite1h, c.Images, c.Searches = x.write, x.write1h, x.images, x.searches
}

func (c *Charged) price(r *Rates, v *vector) {
	c.Tokens, c.Priced = v[dimTokens], r.Priced
	if r.Priced {
		c.Spend = v[dimSpend]
	}
}

// setCost sets the cost in a dimension, which replaces what was reserved of it.
func (c *Charged) setCost(cost Cost) {
	for i := range c.Costs {
		if string(c.Costs[i].Dimension) == string(cost.Dimension) {
			c.Costs[i].Amount = cost.Amount
			return
		}
	}
	c.Costs = append(c.Costs, ChargedCost{[]byte(cost.Dimension), cost.Amount})
}
