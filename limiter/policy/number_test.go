// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

// TestProblemsSayHowToWriteIt: what people write and a policy cannot mean is answered with what
// to write.
func TestProblemsSayHowToWriteIt(t *testing.T) {
	tier := func(line string) string { return "tiers:\n  free: { " + line + " }\n" }
	for source, want := range map[string]string{
		tier("requests: unlimited"):                      `got "unlimited": leave requests out for no limit`,
		tier("concurrent: unlimited"):                    `leave concurrent out for no limit`,
		tier("requests: 0.5/min"):                        `must be a whole number, got "0.5/min": write 30/hour`,
		tier("requests: 0.1/sec"):                        `write 6/min`,
		tier("requests: 0.0001/min"):                     `must be a whole number, got "0.0001/min"`,
		tier("requests: 10 rpm"):                         `write 10/min`,
		tier("tokens: 5kTPD"):                            `write 5k/day`,
		tier(`tokens: "10,000/min"`):                     `write 10_000/min`,
		tier("tokens: 1m/min"):                           `write 1M/min for millions`,
		tier("spend: €10/day"):                           `must be an amount of money, such as $10, got "€10/day": prices are in dollars: write $10/day`,
		tier("spend: €5/day"):                            `prices are in dollars: write $5/day`,
		tier("spend: 5.50 €/day"):                        `write $5.50/day`,
		tier("spend: USD 5/day"):                         `write $5/day`,
		tier("spend: 5 USD/day"):                         `write $5/day`,
		tier("spend: 5USD/day"):                          `write $5/day`,
		tier("spend: 5$/day"):                            `write $5/day`,
		tier(`spend: "€1,000/day"`):                      `write $1_000/day`,
		tier("spend: €five/day"):                         `write $10/day`,
		tier("tokens: 10kk/min"):                         `must be a number such as 10_000, got "10kk/min"`,
		tier("spend: $10kk/day"):                         `must be a number such as 0.25, got "$10kk/day"`,
		tier("spend: $1,000/day"):                        `spend: a comma ends a value in braces: write $1_000/day`,
		tier("tokens: 1,000,000 per day, requests: 5/s"): `tokens: a comma ends a value in braces: write 1_000_000 per day`,
		tier("spend: 10/day"):                            `such as $10, got "10/day"`,
		tier("requests: 5/mo"):                           `did you mean "month"?`,
		tier("requests: 5/hr"):                           `did you mean "hour"?`,
		tier("zone: Europe/Berln"):                       `did you mean "Europe/Berlin"?`,
		tier("zone: New York"):                           `did you mean "America/New_York"?`,
		tier("requests: [10/min, 20/1m]"):                `tier free has two limits named "requests-minute"`,
		tier("requests: [10/min, 20]"):                   `needs a window, as in 20/min`,
		tier("limits: { requests: 10/min }"):             `requests: 10/min is the short form, which stands beside limits: write it under the tier, or { dimension: requests, limit: 10, window: min } in limits`,
		tier("limits: [{ concurrent: 5 }]"):              `or { dimension: concurrent, limit: 5 } in limits`,
		tier("tokens: 100.000/min"):                      `write 100_000/min for thousands, or 100/min`,
		tier("spend: 50.5/day"):                          `got "50.5/day": write $50.5/day`,
		tier("spend: [10/day]"):                          `write $10/day`,
		tier("spend: $10"):                               `needs a window, as in $10/day`,
		tier("concurrent: 4/min"):                        `concurrent takes no window, got "4/min": write 4`,
		tier("requests: [60/min, 5,000/day]"):            `tier free: requests: a comma ends an item of a list: write 5_000/day`,
		tier("rpm: 60"):                                  `did you mean "requests"?`,
		"prices: { m: { in: 3, out: 15 } }\n":            `unknown key "out" in the price of "m"; did you mean "output"?`,
		tier("requests: []"):                             `tier free: requests needs at least one amount; leave it out for no limit`,
		tier("concurrent: [10]"):                         `concurrent must be a single value, got a list`,
		"tiers:\n\tfree: { requests: 1/min }\n":          `YAML does not allow tabs for indentation, write spaces`,
		"prices: { m: { input: 0.0000006, output: 1 } }": `write 0.6 for 0.0000006 a token`,
	} {
		_, err := Parse("p.yaml", []byte(source), limiter.NewCatalog())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %s", source, err, want)
		}
	}
}

// TestOneMistakeIsOneProblem: what follows from a problem is not another one.
func TestOneMistakeIsOneProblem(t *testing.T) {
	for _, source := range []string{
		"tiers: [free]\n",
		"tiers: 7\n",
		"tiers: { free: { spend: $1,000/day, requests: 10/min } }\n",
		"tiers: { free: { concurrent: 1,000 } }\n",
		"tiers: { free: { limits: { requests: 10/min, tokens: 10/min } } }\n",
		"tiers: { free: { limits: [{ dimension: spend, limit: $100/day }] } }\n",
		"tiers: { free: { requests: [60/min, 1,000,000/day, 5/s] } }\n",
		"tiers: { free: { limits: [{ requests: 10/min }] } }\ndefault_tier: free\noverrides:\n  - { key: acme, limit: requests, value: 5, until: 2026-12-24 }\n",
		"models: llama\ntiers: { free: { requests: 1/min } }\n",
	} {
		_, err := Parse("p.yaml", []byte(source), limiter.NewCatalog())
		if problems, ok := err.(Problems); !ok || len(problems) != 1 {
			t.Errorf("%s\n%v, want one problem", source, err)
		}
	}
}

// TestSeveralWindows: a list in the short form is one limit for each window.
func TestSeveralWindows(t *testing.T) {
	p, err := Parse("p.yaml", []byte("tiers:\n  free: { requests: [10 per second, 100/min, 1k/day, 5k/90m], tokens: [1M/month] }\n"), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	var plan limiter.Plan
	if err := p.Resolve(limiter.Time{}, "acme/alice", "free", "", &plan); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range plan.Levels[plan.Count-1].Limits.Limits() {
		got = append(got, l.Name+" "+FormatAmount(l.Dimension, l.Amount)+"/"+formatWindow(&l))
	}
	want := "requests-1h30m 5000/1h30m, requests-day 1000/day, requests-minute 100/1m, requests-second 10/1s, tokens-month 1000000/month"
	if strings.Join(got, ", ") != want {
		t.Errorf("limits %s, want %s", strings.Join(got, ", "), want)
	}
}

// TestPricesPerTokenAreWarnedOf: a price per million tokens below a tenth of a cent is probably
// one for a token.
func TestPricesPerTokenAreWarnedOf(t *testing.T) {
	const tiers = "tiers: { free: { spend: $1/day } }\n"
	for price, want := range map[string]string{
		"0.000003, output: 3":  `the price of "m": input is $0.000003 per million tokens: write 3 if it is meant for one token, and 0.003 if for 1,000`,
		"0.003, output: 0.015": `the price of "m": input is $0.003 per million tokens: write 3000 if it is meant for one token, and 3 if for 1,000` + "the price of \"m\": output is $0.015 per million tokens: write 15000 if it is meant for one token, and 15 if for 1,000",
		"0.01, output: 0":      "", // of a small embedding model
		"0.001, output: 3":     "",
		"0, output: 3":         "",
	} {
		p, err := Parse("p.yaml", []byte("prices: { m: { input: "+price+" }, \"*\": { input: 1, output: 1 } }\n"+tiers), limiter.NewCatalog())
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for _, w := range p.Warnings() {
			got += w.Message
		}
		if got != want {
			t.Errorf("input %s: warnings %q, want %q", price, got, want)
		}
	}
}
