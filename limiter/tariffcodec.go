// SPDX-License-Identifier: Apache-2.0

package limiter

import "github.com/cespare/xxhash/v2"

// tariffMagic begins every encoded tariff. Its last byte is the version.
const tariffMagic = "brt\x01"

// maxTariffLimits bounds the limits of a tariff, and so those of a slice.
const maxTariffLimits = 2 * MaxLevels * maxLimits

// numbers lists the prices and weights of a tariff, and what else is an amount.
func (t *Tariff) numbers() [12]*int64 {
	usual, r := t.rates.numbers(), &t.rates
	return [...]*int64{
		usual[0], usual[1], usual[2], usual[3], usual[4], usual[5],
		&r.CacheWritePrice, &r.CacheWrite1hPrice, &r.RequestFee, &r.ImageFee, &r.SearchFee, &t.defaultOutput,
	}
}

// Append appends t to b, with a checksum.
func (t *Tariff) Append(b []byte) []byte {
	e := encoder{append(b, tariffMagic...)}
	e.bool(t.rates.Priced)
	e.bool(t.boundOutput)
	e.fixed(t.version)
	for _, n := range t.numbers() {
		e.uint(uint64(*n))
	}
	e.string(t.rates.ServiceTiers.table)
	e.string(t.tier)
	e.uint(uint64(len(t.limits)))
	for i := range t.limits {
		l := &t.limits[i]
		e.string(string(l.dimension))
		e.uint(uint64(l.estimate.Mode))
		e.uint(uint64(l.estimate.Output))
	}
	e.fixed(xxhash.Sum64(e.buf[len(b):]))
	return e.buf
}

// ReadTariff reads what [Tariff.Append] has appended to nothing. The error says what is wrong
// with b. The tariff does not share its memory.
func ReadTariff(b []byte) (*Tariff, error) {
	body, err := checkFrame(b, tariffMagic, "tariff")
	if err != nil {
		return nil, err
	}
	d := decoder{buf: body, size: len(tariffMagic) + len(body), what: "tariff"}
	t := &Tariff{}
	t.rates.Priced, t.boundOutput, t.version = d.bool(), d.bool(), d.fixed()
	for _, n := range t.numbers() {
		*n = int64(d.upTo(MaxAmount, "number"))
	}
	if t.rates.ServiceTiers, err = serviceTiersOf(string(d.bytes(maxServiceTable, "service tiers"))); err != nil {
		d.fail("%w", err)
	}
	t.tier = d.string("tier")
	for range d.upTo(maxTariffLimits, "limits") {
		if d.err != nil {
			break
		}
		t.limits = append(t.limits, d.tariffLimit())
	}
	if len(d.buf) > 0 {
		d.fail("%d bytes of trailing data", len(d.buf))
	}
	if d.err != nil {
		return nil, d.err
	}
	return t, nil
}

func (d *decoder) tariffLimit() (l tariffLimit) {
	l.dimension = Dimension(d.string("dimension"))
	l.dim = dimensionCode(l.dimension)
	l.estimate.Mode = EstimateMode(d.upTo(uint64(EstimateInput), "estimate"))
	l.estimate.Output = int64(d.upTo(MaxAmount, "output of an estimate"))
	if l.dim == dimConcurrent || l.dimension == "" {
		d.fail("dimension %q is not lent", l.dimension)
	}
	return l
}
