// SPDX-License-Identifier: Apache-2.0

package middleware

// A fit is a line through samples of bytes and tokens: tokens = overhead + slope x bytes,
// by weighted least squares. Both start from an assumption that has the weight of a few
// samples: no overhead, and defaultRatio. So the constant surplus of short texts, which say
// little about the slope, becomes overhead, and what long texts have more or less becomes
// slope. No sum exceeds 2^42.
type fit struct {
	overhead int64 // tokens, 0 to maxOverhead
	slope    int64 // tokens per slopeUnit bytes

	samples int64
	// Sums over the samples, each times its weight.
	weight, x, xx, y, xy int64 // 1, bytes, bytes squared, tokens, bytes x tokens
}

const (
	slopeUnit = 1 << 16
	minSlope  = slopeUnit * 1000 / maxRatio
	maxSlope  = slopeUnit * 1000 / minRatio

	weightUnit = 1 << 24

	// What is assumed of the overhead and the slope weighs as much as samples that differ
	// from it by 64 tokens, and by an eighth of a token per byte.
	overheadPrior = weightUnit / (64 * 64)
	slopePrior    = weightUnit * 8 * 8

	// Above it, the weight of all samples is halved, so that newer ones count more.
	maxSamples = 256
)

func newFit() fit { return fit{slope: slopeUnit * 1000 / defaultRatio} }

// noise is how much the tokens of texts of n bytes usually differ from the line.
func noise(n int64) int64 { return 16 + n/16 }

// add adds a sample of at most maxSampleBytes.
func (f *fit) add(n, tokens int64) {
	// A wrong report has no more effect than one at the bounds.
	tokens = min(max(tokens, n*1000/maxRatio), n*1000/minRatio+maxOverhead)
	w := weightUnit / (noise(n) * noise(n))
	f.samples++
	f.weight += w
	f.x += w * n
	f.xx += w * n * n
	f.y += w * tokens
	f.xy += w * n * tokens
	if f.samples > maxSamples {
		f.samples /= 2
		f.weight, f.x, f.xx, f.y, f.xy = f.weight/2, f.x/2, f.xx/2, f.y/2, f.xy/2
	}
	// The best slope for the overhead and the best overhead for the slope, in turn. The
	// next samples go on from there.
	const assumed = slopePrior * 1000 / defaultRatio
	for range 4 {
		f.slope = (f.xy - f.overhead*f.x + assumed) * slopeUnit / (f.xx + slopePrior)
		f.slope = min(max(f.slope, minSlope), maxSlope)
		f.overhead = (f.y - f.slope*f.x/slopeUnit) / (f.weight + overheadPrior)
		f.overhead = min(max(f.overhead, 0), maxOverhead)
	}
}

// ratio returns the thousandths of a byte per token to estimate with: an eighth more
// tokens than the slope says.
func (f *fit) ratio() int64 {
	learned := slopeUnit * 1000 / f.slope
	return min(max(learned-learned/9, minRatio), maxRatio)
}
