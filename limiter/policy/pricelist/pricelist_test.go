// SPDX-License-Identifier: Apache-2.0

package pricelist

import (
	"slices"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

func TestModels(t *testing.T) {
	for _, tt := range []struct {
		name, entry string
		want        string // "": left out
		notes       []string
	}{
		{
			"chat", `{"input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05, "cache_read_input_token_cost": 1.25e-06, "mode": "chat", "max_tokens": 16384}`,
			`input: 2.5, cached_input: 1.25, output: 10`, nil,
		},
		{
			"no float64 has it", `{"input_cost_per_token": 1.5e-07, "output_cost_per_token": 0.0000006, "cache_read_input_token_cost": 7.5E-8}`,
			`input: 0.15, cached_input: 0.075, output: 0.6`, nil,
		},
		{
			"cache writes", `{"input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05, "cache_creation_input_token_cost": 3.75e-06, "cache_creation_input_token_cost_above_1hr": 6e-06}`,
			`input: 3, cache_write: 3.75, cache_write_1h: 6, output: 15`, nil,
		},
		{
			"one price of cache writes", `{"input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05, "cache_creation_input_token_cost": 3.75e-06}`,
			`input: 3, cache_write: 3.75, cache_write_1h: 3.75, output: 15`, nil,
		},
		{
			"service tiers", `{"input_cost_per_token": 1.25e-06, "output_cost_per_token": 1e-05, "cache_read_input_token_cost": 1.25e-07,
				"input_cost_per_token_flex": 6.25e-07, "output_cost_per_token_flex": 5e-06, "cache_read_input_token_cost_flex": 6.25e-08,
				"input_cost_per_token_priority": 2.5e-06, "output_cost_per_token_priority": 2e-05,
				"input_cost_per_token_batches": 6.25e-07, "output_cost_per_token_batches": 5e-06}`,
			`input: 1.25, cached_input: 0.125, output: 10, service_tiers: { batch: 0.5, flex: 0.5, priority: 2 }`, nil,
		},
		{
			"factors that differ", `{"input_cost_per_token": 3e-06, "output_cost_per_token": 1e-05, "input_cost_per_token_priority": 4e-06, "output_cost_per_token_priority": 1.1e-05}`,
			`input: 3, output: 10, service_tiers: { priority: 1.333334 }`,
			[]string{"prices in service tier priority have several factors: the highest is taken", "the factor of service tier priority is rounded up"},
		},
		{
			"a factor beyond the largest", `{"input_cost_per_token": 1e-09, "output_cost_per_token": 1e-05, "input_cost_per_token_priority": 1.1e-06}`,
			`input: 0.001, output: 10`,
			[]string{"prices in service tier priority are left out: more than 1000 times the normal price"},
		},
		{
			"fees", `{"input_cost_per_token": 0, "output_cost_per_token": 0, "input_cost_per_request": 0.005, "output_cost_per_image": 0.04,
				"search_context_cost_per_query": {"search_context_size_high": 0.05, "search_context_size_low": 0.03, "search_context_size_medium": 0.035}}`,
			`input: 0, output: 0, request: 0.005, image: 0.04, search: 0.05`,
			[]string{"search_context_cost_per_query depends on the size of the context: the highest price is taken"},
		},
		{
			"an embedding has no output", `{"input_cost_per_token": 2e-08, "mode": "embedding"}`, `input: 0.02, output: 0`, nil,
		},
		{
			"a rerank has fees only", `{"input_cost_per_query": 0.002, "mode": "rerank"}`, `input: 0, output: 0, request: 0.002`, nil,
		},
		{
			"images have fees only", `{"output_cost_per_image": 0.06, "mode": "image_generation"}`, `input: 0, output: 0, image: 0.06`, nil,
		},
		{
			"images that are counted in tokens", `{"input_cost_per_token": 5e-06, "output_cost_per_image_token": 4e-05, "output_cost_per_image": 0.04, "mode": "image_generation"}`,
			"",
			[]string{"left out: no price of output tokens"},
		},
		{
			"pixels", `{"input_cost_per_pixel": 1.9e-08, "mode": "image_generation"}`, "", []string{"left out: no price of input tokens"},
		},
		{
			"chat without output", `{"input_cost_per_token": 1e-06, "mode": "chat"}`, "", []string{"left out: no price of output tokens"},
		},
		{
			"finer than a policy", `{"input_cost_per_token": 1.23456789e-09, "output_cost_per_token": 1e-15, "input_cost_per_request": 1e-7}`,
			`input: 0.001235, output: 0.000001, request: 0.000001`,
			[]string{
				"input_cost_per_request is rounded up to a millionth of a dollar",
				"input_cost_per_token is rounded up to a millionth of a dollar per million tokens",
				"output_cost_per_token is rounded up to a millionth of a dollar per million tokens",
			},
		},
		{
			"other costs", `{"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "input_cost_per_token_above_200k_tokens": 2e-06,
				"output_cost_per_reasoning_token": 2e-06, "output_cost_per_second": 0, "input_cost_per_audio_token": 1e-5, "tiered_pricing": [1]}`,
			`input: 1, output: 2`,
			[]string{
				"input_cost_per_audio_token is not taken over: a policy has no such price",
				"input_cost_per_token_above_200k_tokens is not taken over: a policy has no such price",
				"tiered_pricing is not taken over: a policy has no such price",
			},
		},
		{
			"fields and values that are not taken", `{"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06,
				"cache_read_input_token_cost": "1e-07", "cache_creation_input_token_cost": -1, "cache_read_input_token_cost_above_200k_tokens": 1e-6,
				"input_cost_per_audio_token": "1e-05", "output_cost_per_audio_token": -2, "output_cost_per_video_per_second": true, "input_cost_per_character": 1e-999,
				"provider_specific_entry": {"fast": 6.0, "us": 1.1}, "regional_endpoint_uplift_multiplier": 1.1, "other_multiplier": 1, "off_peak_pricing": {"discount": 0.5},
				"search_context_cost_per_query": {"search_context_size_low": "0.01", "search_context_size_high": -1},
				"supports_vision": true, "source": "https://example.org/pricing", "max_tokens": 8192}`,
			`input: 1, output: 2`,
			[]string{
				"cache_creation_input_token_cost is negative and is left out",
				"cache_read_input_token_cost is not a number and is left out",
				"cache_read_input_token_cost_above_200k_tokens is not taken over: a policy has no such price",
				"input_cost_per_audio_token is not a number and is left out",
				"input_cost_per_character has too many digits and is left out",
				"off_peak_pricing is not taken over: a policy has no such price",
				"output_cost_per_audio_token is negative and is left out",
				"output_cost_per_video_per_second is not a number and is left out",
				"provider_specific_entry is not taken over: a policy has no such price",
				"regional_endpoint_uplift_multiplier is not taken over: a policy has no such price",
				"search_context_cost_per_query.search_context_size_high is not a price and is left out",
				"search_context_cost_per_query.search_context_size_low is not a price and is left out",
			},
		},
		{
			"only input is cheaper in a service tier", `{"input_cost_per_token": 2e-06, "output_cost_per_token": 1e-05, "input_cost_per_token_flex": 1e-06}`,
			`input: 2, output: 10, service_tiers: { flex: 1 }`,
			[]string{"prices in service tier flex have several factors: the highest is taken"},
		},
		{
			"reasoning has its own price", `{"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "output_cost_per_reasoning_token": 3e-06}`,
			`input: 1, output: 2`,
			[]string{"output_cost_per_reasoning_token is not taken over: a policy has no such price"},
		},
		{
			"wrong numbers", `{"input_cost_per_token": "1e-06", "output_cost_per_token": -1}`, "",
			[]string{"input_cost_per_token is not a number and is left out", "left out: no price of input tokens", "output_cost_per_token is negative and is left out"},
		},
		{
			"a huge exponent", `{"input_cost_per_token": 1e999999999, "output_cost_per_token": 1e-99}`, "",
			[]string{"input_cost_per_token has too many digits and is left out", "left out: no price of input tokens"},
		},
		{
			"too dear", `{"input_cost_per_token": 1e6, "output_cost_per_token": 1}`, "", []string{"left out: input_cost_per_token is too large"},
		},
		{
			"null", `{"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "cache_read_input_token_cost": null}`, `input: 1, output: 2`, nil,
		},
		{"no object", `3`, "", []string{"left out: not an object"}},
	} {
		list, err := Parse([]byte(`{"m": ` + tt.entry + `}`))
		if err != nil {
			t.Errorf("%s: Parse() = %v", tt.name, err)
			continue
		}
		got := ""
		if list.Len() == 1 {
			got = list.models[0].text
		}
		if got != tt.want {
			t.Errorf("%s: price %q, want %q", tt.name, got, tt.want)
		}
		for i := range tt.notes {
			tt.notes[i] += `: "m"`
		}
		if !slices.Equal(list.Notes(), tt.notes) {
			t.Errorf("%s: notes\n%s\nwant\n%s", tt.name, strings.Join(list.Notes(), "\n"), strings.Join(tt.notes, "\n"))
		}
		usable(t, list)
	}
}

// usable fails if the list is not a section of a policy.
func usable(t *testing.T, list *List) {
	t.Helper()
	src := "tiers: { t: { spend: $1/day } }\ndefault_tier: t\n" + list.YAML()
	if _, err := policy.Parse("prices.yaml", []byte(src), limiter.NewCatalog()); err != nil {
		t.Errorf("the policy with\n%s\nis not valid: %v", list.YAML(), err)
	}
}

func TestTable(t *testing.T) {
	const price = `{"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}`
	list, err := Parse([]byte(`{"sample_spec": {"input_cost_per_token": 0}, "b/c:d": ` + price + `, "a \"q\\": ` + price +
		`, "b/c:d": {}, "x/*": ` + price + `, "": ` + price + `, "y\u0000": ` + price + `}`))
	if err != nil {
		t.Fatal(err)
	}
	want := "# US dollars per million tokens; request, image and search in dollars each.\nprices:\n" +
		`  "a \"q\\": { input: 1, output: 2 }` + "\n" + `  "b/c:d": { input: 1, output: 2 }` + "\n"
	if list.YAML() != want {
		t.Errorf("YAML() = %s, want %s", list.YAML(), want)
	}
	wantNotes := []string{
		`its second entry is left out: the table has it twice: "b/c:d"`,
		`left out: a star in a name would make it a pattern: "x/*"`,
		`left out: the name is not printable: "y\x00"`,
		`left out: the name must have 1 to 256 bytes: ""`,
	}
	if !slices.Equal(list.Notes(), wantNotes) {
		t.Errorf("Notes() =\n%s\nwant\n%s", strings.Join(list.Notes(), "\n"), strings.Join(wantNotes, "\n"))
	}
	usable(t, list)
	for _, src := range []string{"", "[]", "{", `{"a":`, `{"a": {}} {}`, `{"a": {"b": 1e}}`, "{}x"} {
		if _, err := Parse([]byte(src)); err == nil {
			t.Errorf("Parse(%q) = no error", src)
		}
	}
}

// FuzzParse: no table makes Parse panic, and every list is a section of a policy.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"a": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "input_cost_per_token_flex": 5e-07, "search_context_cost_per_query": {"x": 1}}}`))
	f.Add([]byte(`{"ä'#: ": {"input_cost_per_token": 0, "output_cost_per_token": 1E-2, "mode": "rerank", "input_cost_per_query": 3}}`))
	f.Fuzz(func(t *testing.T, src []byte) {
		list, err := Parse(src)
		if err != nil {
			return
		}
		list.Notes()
		usable(t, list)
	})
}
