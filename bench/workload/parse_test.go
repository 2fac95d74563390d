// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

func TestParseIsCanonical(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "keys=uniform:10k tokens=chat llm=0% seed=0",
		"  seed=7   keys=uniform:1_000_000  ": "keys=uniform:1M tokens=chat llm=0% seed=7",
		"keys=zipf:1.10x100_000":              "keys=zipf:1.1x100k tokens=chat llm=0% seed=0",
		"keys=zipf:2x1500":                    "keys=zipf:2x1500 tokens=chat llm=0% seed=0",
		"keys=hot:90%:acme + uniform:10K":     "keys=hot:90%:acme+uniform:10k tokens=chat llm=0% seed=0",
		"keys=uniform:10k + hot:90.50%:acme seed=1":                 "keys=uniform:9.5%:10k+hot:acme tokens=chat llm=0% seed=1",
		"keys=uniform:10%:10k+ hot:90%:acme":                        "keys=uniform:10%:10k+hot:acme tokens=chat llm=0% seed=0",
		"keys=hot:100%:acme":                                        "keys=hot:acme tokens=chat llm=0% seed=0",
		"keys=hot:tenant:7/alice":                                   "keys=hot:tenant:7/alice tokens=chat llm=0% seed=0",
		"tiers=free=1_000,paid=2000 models=small=1":                 "keys=uniform:10k tiers=free=1k,paid=2k models=small tokens=chat llm=0% seed=0",
		"tokens=uniform:5-5+0-9":                                    "keys=uniform:10k tokens=uniform:5+0-9 llm=0% seed=0",
		"llm=30.0%":                                                 "keys=uniform:10k tokens=chat llm=30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2 seed=0",
		"llm=1%:max=4_096,speed=10k,ttft=90s,reports=0":             "keys=uniform:10k tokens=chat llm=1%:ttft=1m30s,speed=10k,reports=0,max=4096 seed=0",
		"llm=0%:max=exact retries=0%+5":                             "keys=uniform:10k tokens=chat llm=0% seed=0",
		"retries=1%+0 ids=a prefix=b":                               "keys=uniform:10k tokens=chat llm=0% retries=1% prefix=b ids=a seed=0",
		"retries=0.0001%+1k":                                        "keys=uniform:10k tokens=chat llm=0% retries=0.0001%+1k seed=0",
		"replay=1x":                                                 "replay=1x:users=200,orgs=20 llm=100%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2 seed=0",
		"replay=1x:from=90s":                                        "replay=1x:users=200,orgs=20,from=1m30s llm=100%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2 seed=0",
		"replay=2.50x:orgs=3 llm=0% seed=18446744073709551615":      "replay=2.5x:users=200,orgs=3 llm=0% seed=18446744073709551615",
		"keys=orgs:10x10 tokens=fixed:0+0":                          "keys=orgs:10x10 tokens=fixed:0+0 llm=0% seed=0",
		"keys=hot:30%:a+hot:30%:b+hot:40%:c tokens=fixed:1500+1500": "keys=hot:30%:a+hot:30%:b+hot:c tokens=fixed:1500+1500 llm=0% seed=0",
	} {
		s, err := Parse(text)
		if err != nil {
			t.Errorf("Parse(%q): %v", text, err)
			continue
		}
		if got := s.String(); got != want {
			t.Errorf("Parse(%q) = %s\nwant %s", text, got, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"keys=zip:1.1x100k":                 "keys: \"zip:1.1x100k\": unknown kind of keys \"zip\"; write uniform:1M, zipf:1.1x100k, hot:acme/alice, orgs:100x1000, or a mixture such as hot:90%:acme+uniform:10k",
		"keys=zipf:1.1":                     "keys: \"zipf:1.1\": the exponent or the number of keys is missing; write zipf:EXPONENTxKEYS such as zipf:1.1x100k",
		"keys=zipf:0x5":                     "keys: \"zipf:0x5\": the exponent must be above 0 and at most 10, got 0; write zipf:EXPONENTxKEYS such as zipf:1.1x100k",
		"keys=zipf:-1x5":                    "keys: \"zipf:-1x5\": the exponent: \"-1\" must be a number such as 1 or 1.5; write zipf:EXPONENTxKEYS such as zipf:1.1x100k",
		"keys=zipf:1.2345x5":                "keys: \"zipf:1.2345x5\": the exponent: 1.2345 must have at most 3 decimal places; write zipf:EXPONENTxKEYS such as zipf:1.1x100k",
		"keys=uniform":                      "keys: \"uniform\": the keys are missing; write uniform:KEYS such as uniform:1M",
		"keys=uniform:":                     "keys: \"uniform:\": the keys are missing; write uniform:KEYS such as uniform:1M",
		"keys=uniform:0":                    "keys: \"uniform:0\": the number of keys: 0 must be 1 to 100M; write uniform:KEYS such as uniform:1M",
		"keys=uniform:1G":                   "keys: \"uniform:1G\": the number of keys: \"1G\" must be a whole number such as 25, 1_000, 10k or 1M; write uniform:KEYS such as uniform:1M",
		"keys=uniform:1__0":                 "keys: \"uniform:1__0\": the number of keys: \"1__0\" must be a whole number such as 25, 1_000, 10k or 1M; write uniform:KEYS such as uniform:1M",
		"keys=uniform:99999999999999999999": "keys: \"uniform:99999999999999999999\": the number of keys: 99999999999999999999 must be 1 to 100M; write uniform:KEYS such as uniform:1M",
		"keys=uniform:18446744073710M":      "keys: \"uniform:18446744073710M\": the number of keys: 18446744073710M must be 1 to 100M; write uniform:KEYS such as uniform:1M",
		"keys=orgs:5":                       "keys: \"orgs:5\": a tree has 2 to 4 levels, got 1; write orgs:ORGSxUSERS such as orgs:100x1000, or orgs:100x10x1000 with teams",
		"keys=orgs:1Mx1k":                   "keys: \"orgs:1Mx1k\": must be at most 100M keys in total; write orgs:ORGSxUSERS such as orgs:100x1000, or orgs:100x10x1000 with teams",
		"keys=hot:a//b":                     "keys: \"hot:a//b\": the key \"a//b\" has an empty segment; write hot:KEY such as hot:acme/alice, or hot:90%:acme+uniform:10k",
		"keys=hot:a/b/c/d/e":                "keys: \"hot:a/b/c/d/e\": the key \"a/b/c/d/e\" has more than 4 segments; write hot:KEY such as hot:acme/alice, or hot:90%:acme+uniform:10k",
		"keys=hot:aä":                       "keys: \"hot:aä\": the key must be printable ASCII without spaces, got 'ä'; write hot:KEY such as hot:acme/alice, or hot:90%:acme+uniform:10k",
		"keys=hot:0%:a+hot:b":               "keys: \"hot:0%:a+hot:b\": a part must not have a share of 0%; write hot:KEY such as hot:acme/alice, or hot:90%:acme+uniform:10k",
		"keys=hot:101%:a+hot:b":             "keys: \"hot:101%:a+hot:b\": must be at most 100%, got 101%; write hot:KEY such as hot:acme/alice, or hot:90%:acme+uniform:10k",
		"keys=hot:a+hot:b":                  "keys: \"hot:a+hot:b\": only one part may have no share; it gets the rest; write shares such as hot:90%:acme+uniform:10k",
		"keys=hot:50%:a+hot:40%:b":          "keys: \"hot:50%:a+hot:40%:b\": the shares must add up to 100%, got 90%; leave out the share of one part, which then gets the rest",
		"keys=hot:100%:a+hot:b":             "keys: \"hot:100%:a+hot:b\": the shares leave nothing for the part rest a share; write uniform:1M, zipf:1.1x100k, hot:acme/alice, orgs:100x1000, or a mixture such as hot:90%:acme+uniform:10k",
		"tiers=free=70,standard":            "tiers: \"free=70,standard\": \"standard\" has no weight; write NAME=WEIGHT,... such as free=70,standard=25,enterprise=5, or one name",
		"tiers=free=70,free=1":              "tiers: \"free=70,free=1\": \"free\" must not be given twice; write NAME=WEIGHT,... such as free=70,standard=25,enterprise=5, or one name",
		"models=a=0,b=1":                    "models: \"a=0,b=1\": the weight of a: 0 must be 1 to 1M; write NAME=WEIGHT,... such as free=70,standard=25,enterprise=5, or one name",
		"models=,":                          "models: \",\": a name is missing; write NAME=WEIGHT,... such as free=70,standard=25,enterprise=5, or one name",
		"tokens=fixed:900":                  "tokens: \"fixed:900\": must have + between input and output; write fixed:INPUT+OUTPUT such as fixed:900+100",
		"tokens=fixed:1-2+3":                "tokens: \"fixed:1-2+3\": the input: \"1-2\" must be a whole number such as 25, 1_000, 10k or 1M; write fixed:INPUT+OUTPUT such as fixed:900+100",
		"tokens=uniform:9-1+3":              "tokens: \"uniform:9-1+3\": the input: 9-1 must not decrease; write uniform:INPUT+OUTPUT such as uniform:100-2000+50-400",
		"tokens=uniform:9-10+":              "tokens: \"uniform:9-10+\": the output: a number is missing; write uniform:INPUT+OUTPUT such as uniform:100-2000+50-400",
		"tokens=chat:5":                     "tokens: \"chat:5\": must not have sizes, got \"5\"; write chat without numbers",
		"tokens=chatty":                     "tokens: \"chatty\": unknown kind of tokens \"chatty\"; write fixed:900+100, uniform:100-2000+50-400 or chat",
		"llm=0.3":                           "llm: \"0.3\": \"0.3\" must be a share such as 30% or 0.5%; write a share such as 30%, or 30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2",
		"llm=3%:speed=0":                    "llm: \"3%:speed=0\": speed: 0 must be 1 to 1M; write a share such as 30%, or 30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2",
		"llm=3%:ttft=1":                     "llm: \"3%:ttft=1\": ttft: \"1\" must be a time such as 200ms or 1.5s; write a share such as 30%, or 30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2",
		"llm=3%:sped=1":                     "llm: \"3%:sped=1\": sped: unknown setting; the settings are ttft, speed, reports and max; write a share such as 30%, or 30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2",
		"llm=3%:max=1,max=2":                "llm: \"3%:max=1,max=2\": max must not be given twice; write a share such as 30%, or 30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2",
		"llm=3%:max=none":                   "llm: \"3%:max=none\": max: must be pow2, exact or a number: \"none\" must be a whole number such as 25, 1_000, 10k or 1M; write a share such as 30%, or 30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2",
		"retries=5":                         "retries: \"5\": \"5\" must be a share such as 30% or 0.5%; write a share such as 1%, or 1%+100 for 100 calls between a call and its retry",
		"retries=5%+1s":                     "retries: \"5%+1s\": the calls between: \"1s\" must be a whole number such as 25, 1_000, 10k or 1M; write a share such as 1%, or 1%+100 for 100 calls between a call and its retry",
		"replay=10":                         "replay: \"10\": \"10\" must be a speed such as 10x; write a speed such as 1x or 100x, or 10x:users=200,orgs=20",
		"replay=0x":                         "replay: \"0x\": the speed must be 0.001x to 1000000x, got 0x; write a speed such as 1x or 100x, or 10x:users=200,orgs=20",
		"replay=1x:from=2d":                 "replay: \"1x:from=2d\": \"from\": \"2d\" must be a time in the trace such as 20m; write a speed such as 1x or 100x, or 10x:users=200,orgs=20",
		"replay=1x:user=5":                  "replay: \"1x:user=5\": \"user\": unknown setting; the settings are users, orgs and from; write a speed such as 1x or 100x, or 10x:users=200,orgs=20",
		"replay=1x keys=hot:a":              "keys: \"hot:a\": a replay has its own keys; leave it out, or replay",
		"replay=1x tokens=chat":             "tokens: \"chat\": a replay has its own tokens; leave it out, or replay",
		"prefix=a/":                         "prefix: \"a/\": all keys would have the same first segment and the same owner; write it without / such as r7-",
		"prefix=ä":                          "prefix: \"ä\": the prefix must be printable ASCII without spaces, got 'ä'; write letters and digits such as r7-",
		"seed=-1":                           "seed: \"-1\": must be a whole number from 0 to 2^64-1; write a seed such as 7",
		"seed=1 seed=2":                     "seed: \"2\": must not be given twice",
		"seed=":                             "seed: \"\": the value is missing; " + specHint,
		"chat":                              "spec: \"chat\": must contain =; " + specHint,
		"tier=free":                         "spec: \"tier\": unknown part; " + specHint,
	} {
		_, err := Parse(text)
		if err == nil {
			t.Errorf("Parse(%q) succeeded, want an error", text)
			continue
		}
		if got := err.Error(); got != want {
			t.Errorf("Parse(%q):\n got %s\nwant %s", text, got, want)
		}
		if _, ok := errors.AsType[*Error](err); !ok {
			t.Errorf("Parse(%q) = %T, want an *Error within", text, err)
		}
	}
}

func TestParseReturnsEveryProblem(t *testing.T) {
	_, err := Parse("keys=x tokens=y llm=z chat")
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("Parse of four mistakes = %v, want four problems", err)
	}
	s := Spec{KeyPrefix: strings.Repeat("p", 65), IDPrefix: "a b"}
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "longer than 64 bytes") || !strings.Contains(err.Error(), "ids: ") {
		t.Errorf("Validate() = %v, want problems with the prefix and the ids", err)
	}
	if _, err := New(s); err == nil {
		t.Error("New of a wrong spec succeeded")
	}
	if _, err := New(Spec{KeyPrefix: strings.Repeat("p", 60), Keys: parsed(t, ParseKeys, "uniform:100M")}); err == nil ||
		!strings.Contains(err.Error(), "2 GiB") {
		t.Errorf("New with 7 GB of names = %v, want an error", err)
	}
}

func parsed[T any](t *testing.T, parse func(string) (T, error), text string) T {
	t.Helper()
	v, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Long values are cut in messages.
func TestErrorsAreShort(t *testing.T) {
	_, err := ParseTokens(strings.Repeat("ä", 5000))
	if err == nil || len(err.Error()) > 500 {
		t.Errorf("ParseTokens of 10,000 bytes: %d bytes of message, want at most 500", len(fmt.Sprint(err)))
	}
}

// The parts can be values of flags and JSON.
func TestPartsMarshalAsText(t *testing.T) {
	var s Spec
	flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	flags.TextVar(&s.Keys, "keys", Keys{}, "")
	flags.TextVar(&s.Tiers, "tiers", Mix{}, "")
	flags.TextVar(&s.Tokens, "tokens", Tokens{}, "")
	flags.TextVar(&s.LLM, "llm", LLM{}, "")
	flags.TextVar(&s.Retries, "retries", Retries{}, "")
	flags.TextVar(&s.Replay, "replay", Replay{}, "")
	if err := flags.Parse([]string{"--keys", "zipf:1.1x100k", "--tiers=free=7,paid=3", "--llm", "30%", "--retries", "1%"}); err != nil {
		t.Fatal(err)
	}
	const want = "keys=zipf:1.1x100k tiers=free=7,paid=3 tokens=chat llm=30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2 retries=1% seed=0"
	if got := s.String(); got != want {
		t.Errorf("by flags: %s\nwant %s", got, want)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var again Spec
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, s) {
		t.Errorf("from JSON: %s\nwant %s", again, s)
	}
	wrong := flag.NewFlagSet("bench", flag.ContinueOnError)
	wrong.SetOutput(io.Discard)
	wrong.TextVar(&s.Tiers, "tiers", Mix{}, "")
	if err := wrong.Parse([]string{"-tiers", "a,b"}); err == nil || !strings.Contains(err.Error(), `"a" has no weight`) {
		t.Errorf("a wrong flag = %v, want what is wrong with it", err)
	}
}

// specText draws a random specification.
func specText(t *rapid.T) string {
	pick := func(label string, options ...func() string) string {
		return options[rapid.IntRange(0, len(options)-1).Draw(t, label)]()
	}
	numberText := func(least, most int64) string {
		n := rapid.Int64Range(least, most).Draw(t, "n")
		plain := strconv.FormatInt(n, 10)
		switch style := rapid.IntRange(0, 3).Draw(t, "style"); {
		case style == 1 && n%1000 == 0:
			return strconv.FormatInt(n/1000, 10) + "k"
		case style == 2 && n <= most/1000 && n >= 1:
			return plain + "K"
		case style == 3 && len(plain) > 3:
			return plain[:len(plain)-3] + "_" + plain[len(plain)-3:]
		}
		return plain
	}
	places := func(n int64, places int) string {
		text := formatDecimal(n, places)
		if strings.Contains(text, ".") && rapid.Bool().Draw(t, "zeros") {
			text += strings.Repeat("0", places-len(text)+1+strings.Index(text, "."))
		}
		return text
	}
	shareText := func(least int64) string { return places(rapid.Int64Range(least, 1_000_000).Draw(t, "share"), 4) + "%" }
	word := rapid.StringMatching(`[a-z0-9._:-]{1,9}`)
	population := func(share string) string {
		return pick("kind",
			func() string { return "uniform:" + share + numberText(1, 9999) },
			func() string {
				return "zipf:" + share + places(rapid.Int64Range(1, 10_000).Draw(t, "s"), 3) + "x" + numberText(1, 9999)
			},
			func() string { return "hot:" + share + word.Draw(t, "root") + "/" + word.Draw(t, "user") },
			func() string { return "orgs:" + share + numberText(1, 99) + "x" + numberText(1, 99) },
		)
	}
	keys := func() string {
		text, left := "", int64(1_000_000)
		for range rapid.IntRange(0, 4).Draw(t, "parts") {
			part := rapid.Int64Range(1, left/2).Draw(t, "part")
			left -= part
			text += population(places(part, 4)+"%:") + rapid.SampledFrom([]string{"+", " + ", "+ ", " +"}).Draw(t, "plus")
		}
		if rapid.Bool().Draw(t, "explicit") {
			return text + population(places(left, 4)+"%:")
		}
		return text + population("")
	}
	mixture := func() string {
		names := rapid.SliceOfNDistinct(word, 1, 5, rapid.ID).Draw(t, "names")
		for i := range names {
			names[i] += "=" + numberText(1, 1_000_000)
		}
		return strings.Join(names, ",")
	}
	spanText := func(most int64) string {
		from := rapid.Int64Range(1, most).Draw(t, "from")
		return strconv.FormatInt(from, 10) + "-" + numberText(from, most)
	}
	var fields []string
	add := func(name string, value func() string) {
		if rapid.Bool().Draw(t, name) {
			fields = append(fields, name+"="+value())
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "is replay") == 9 {
		fields = append(fields, "replay="+places(rapid.Int64Range(1, 1_000_000_000).Draw(t, "speed"), 3)+"x"+
			pick("users", func() string { return "" }, func() string { return ":orgs=" + numberText(1, 50) + ",users=" + numberText(1, 2000) }))
	} else {
		add("keys", keys)
		add("tokens", func() string {
			return pick("sizes",
				func() string { return "chat" },
				func() string { return "fixed:" + numberText(0, 10_000_000) + "+" + numberText(0, 10_000_000) },
				func() string { return "uniform:" + spanText(10_000_000) + "+" + spanText(10_000_000) })
		})
	}
	add("tiers", mixture)
	add("models", mixture)
	add("llm", func() string {
		return shareText(0) + pick("settings",
			func() string { return "" },
			func() string {
				ttft := rapid.Int64Range(0, int64(time.Hour)).Draw(t, "ttft")
				return ":max=" + pick("max", func() string { return "pow2" }, func() string { return "exact" }, func() string { return numberText(1, 10_000_000) }) +
					",speed=" + spanText(1_000_000) + ",ttft=" + time.Duration(ttft/3).String() + "-" + time.Duration(ttft).String() +
					",reports=" + numberText(0, 1000)
			})
	})
	add("retries", func() string {
		return shareText(0) + pick("after", func() string { return "" }, func() string { return "+" + numberText(0, 1000) })
	})
	add("prefix", func() string { return word.Draw(t, "prefix") })
	add("ids", func() string { return word.Draw(t, "ids") })
	add("seed", func() string { return strconv.FormatUint(rapid.Uint64().Draw(t, "seed"), 10) })
	return strings.Join(rapid.Permutation(fields).Draw(t, "fields"), " ")
}

// String returns canonical text that gives the same calls.
func TestStringRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := specText(t)
		s, err := Parse(text)
		if err != nil {
			t.Fatalf("Parse(%q): %v", text, err)
		}
		again, err := Parse(s.String())
		if err != nil {
			t.Fatalf("Parse(%q) of String() of %q: %v", s, text, err)
		}
		if again.String() != s.String() {
			t.Fatalf("%q is %s, and that is %s", text, s, again)
		}
		if !reflect.DeepEqual(again.withDefaults(), s.withDefaults()) {
			t.Fatalf("%q: %+v, and again %+v", text, s.withDefaults(), again.withDefaults())
		}
		a, err := New(s)
		if err != nil {
			t.Fatal(err)
		}
		b, err := New(again)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(plan(a, 20), plan(b, 20)) {
			t.Fatalf("%q and %s plan other calls", text, s)
		}
		if s.Tokens.kind == fixedTokens && a.Describe() != b.Describe() { // the trace takes long to describe
			t.Fatalf("%q and %s are described in other words", text, s)
		}
		checkCalls(t, plan(a, 50))
	})
}

func FuzzParse(f *testing.F) {
	for _, g := range goldens {
		f.Add(g.spec)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Fatalf("Parse(%q) fails and does not say why", text)
			}
			return
		}
		again, err := Parse(s.String())
		if err != nil {
			t.Fatalf("Parse(%q) of String() of %q: %v", s, text, err)
		}
		if again.String() != s.String() {
			t.Fatalf("%q is %s, and that is %s", text, s, again)
		}
	})
}
