//go:build study

// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tiktoken-go/tokenizer/codec"

	"github.com/bucketring/bucketring/internal/trace"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

var studyDir = flag.String("study", "", "directory of docs/estimator.md, whose table and picture are written")

// overheadOfStudy is what the server of the study adds to each prompt, in tokens.
const overheadOfStudy = 70

// capacityOfStudy is the largest limit of one call: that of the tier free of the built-in
// policy, in tokens.
const capacityOfStudy = 10_000

// A corpus is a text of one kind with the end of each of its tokens.
type corpus struct {
	text string
	ends []int
}

// newCorpus tokenizes a text with cl100k_base.
func newCorpus(t *testing.T, text string) *corpus {
	t.Helper()
	_, tokens, err := codec.NewCl100kBase().Encode(text)
	if err != nil {
		t.Fatal(err)
	}
	c := &corpus{text: text}
	end := 0
	for _, token := range tokens {
		end += len(token)
		c.ends = append(c.ends, end)
	}
	if end != len(text) {
		t.Fatalf("the tokens have %d bytes, the text %d", end, len(text))
	}
	return c
}

// take returns a random piece of about n tokens, and how many it has. Tokens that are parts
// of a character stay together.
func (c *corpus) take(random *rand.Rand, n int64) (string, int64) {
	first := random.IntN(len(c.ends))
	var b strings.Builder
	var taken int64
	for taken < n { // goes round
		last := min(first+int(n-taken), len(c.ends)-1)
		from, to := 0, c.ends[last]
		if first > 0 {
			from = c.ends[first-1]
		}
		for from < to && !utf8.RuneStart(c.text[from]) {
			from++
		}
		for to < len(c.text) && !utf8.RuneStart(c.text[to]) {
			to++
		}
		b.WriteString(c.text[from:to])
		taken += int64(last - first + 1)
		first = 0
	}
	return b.String(), taken
}

// readFiles joins the files that match patterns, up to size bytes.
func readFiles(t *testing.T, size int, patterns ...string) string {
	t.Helper()
	var b strings.Builder
	for _, pattern := range patterns {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(text)
		}
	}
	return strings.ToValidUTF8(b.String()[:min(size, b.Len())], "")
}

// chinese makes a text of sentences about everyday things, in Chinese.
func chinese(random *rand.Rand, size int) string {
	subjects := []string{"我们的团队", "这家公司", "昨天来的客人", "城里的学生", "那位老师", "邻居家的孩子", "年轻的工程师", "图书馆的读者"}
	times := []string{"今天早上", "去年冬天", "下个星期三", "会议结束以后", "天黑之前", "每年春天", "吃过晚饭"}
	verbs := []string{"讨论了", "准备了", "研究过", "忘记带", "买到了", "解释清楚", "终于完成", "仔细检查了"}
	objects := []string{"一份很长的报告", "新的计算方法", "三百二十个问题", "从北京寄来的信", "这台机器的说明书", "关于天气的数据", "一本旧小说", "明天要用的材料"}
	ends := []string{"。", "，因为时间不够。", "，可是没有人知道结果。", "，大家都觉得很满意！", "，您觉得应该怎么办？"}
	var b strings.Builder
	for b.Len() < size {
		for _, words := range [][]string{times, subjects, verbs, objects, ends} {
			b.WriteString(words[random.IntN(len(words))])
		}
	}
	return b.String()
}

// records makes a JSON text, as of a tool that answers with rows of a table.
func records(random *rand.Rand, size int) string {
	var b strings.Builder
	for b.Len() < size {
		row := map[string]any{
			"id": fmt.Sprintf("ord_%08x", random.Uint32()), "amount": random.IntN(100_000), "currency": "USD", "paid": random.IntN(2) == 0,
			"created_at": time.Unix(1.7e9+random.Int64N(1e8), 0).UTC().Format(time.RFC3339), "position": []float64{random.Float64() * 90, random.Float64() * 180},
		}
		text, _ := json.Marshal(row)
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String()
}

// A piece of base64 with n random bytes.
func base64Of(random *rand.Rand, n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	b := make([]byte, n*4/3)
	for i := range b {
		b[i] = alphabet[random.IntN(64)]
	}
	return string(b)
}

// A prompt is the content of a message with its real tokens.
type prompt struct {
	content any
	tokens  int64
}

// study is the result for one kind of content.
type study struct {
	name                string
	calls               int
	estimated, real     int64
	ratios              []float64 // of each call
	under               int       // calls that were estimated too low
	deniedWith, without int       // calls that fit and were denied for good, with and without estimated_input
}

func (s *study) run(t *testing.T, calls []trace.Call, make func(*rand.Rand, int64) prompt) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	users := trace.Users{Seed: 1, Count: 200, Orgs: 20}
	var e estimator
	catalog := limiter.NewCatalog()
	engine := limiter.New(limiter.Options{Catalog: catalog, MaxKeys: 1 << 20})
	set, err := catalog.LimitSet([]limiter.Limit{{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: capacityOfStudy, Window: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range calls {
		p := make(random, call.ContextTokens)
		body, err := json.Marshal(map[string]any{"model": "m", "messages": []any{map[string]any{"role": "user", "content": p.content}}})
		if err != nil {
			t.Fatal(err)
		}
		q, err := llm.Parse(llm.ChatCompletions, body)
		if err != nil {
			t.Fatal(err)
		}
		key := users.Of(call.Row).Key
		estimated, tokens := e.prompt(key, "m", q.InputBytes), p.tokens+overheadOfStudy
		if !q.FixedSize {
			e.learn(key, "m", q.InputBytes, tokens)
		}
		s.calls++
		s.estimated += estimated
		s.real += tokens
		s.ratios = append(s.ratios, float64(estimated)/float64(tokens))
		if estimated < tokens {
			s.under++
		}
		if tokens+call.GeneratedTokens > capacityOfStudy {
			continue // denied rightly
		}
		for _, flag := range []bool{true, false} {
			key := fmt.Sprintf("%s/%d-%v", key, call.Row, flag)
			plan := limiter.Plan{Count: 1, Tier: "free", Rates: limiter.Rates{Weights: limiter.DefaultWeights}}
			plan.Levels[0] = limiter.Level{End: len(key), Tier: "free", Limits: set}
			var d limiter.Decision
			if err := engine.Reserve(limiter.Time{}, &limiter.Request{
				Key: key, Model: "m", ID: key, Plan: &plan, Requests: 1, InputTokens: estimated, OutputTokens: call.GeneratedTokens, EstimatedInput: flag, TTL: time.Hour,
			}, &d); err != nil {
				t.Fatal(err)
			}
			if err := engine.Cancel(limiter.Time{}, key, key, &d); d.Outcome == limiter.Denied {
				if flag {
					s.deniedWith++
				} else {
					s.without++
				}
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Sort(s.ratios)
}

func (s *study) percentile(p int) float64 { return s.ratios[(len(s.ratios)-1)*p/100] }

// TestEstimatorStudy predicts the prompts of the Azure trace with contents of several
// kinds, and compares with a tokenizer. With -study it writes the results.
func TestEstimatorStudy(t *testing.T) {
	calls, err := trace.Load()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(7, 7))
	corpora := map[string]*corpus{
		"prose":   newCorpus(t, readFiles(t, 300_000, "../../../docs/*.md", "../../../docs/*/*.md")),
		"code":    newCorpus(t, readFiles(t, 400_000, "../../../limiter/*.go")),
		"Chinese": newCorpus(t, chinese(random, 300_000)),
		"JSON":    newCorpus(t, records(random, 300_000)),
	}
	plain := func(kind string) func(*rand.Rand, int64) prompt {
		return func(random *rand.Rand, n int64) prompt {
			text, tokens := corpora[kind].take(random, n)
			return prompt{text, tokens}
		}
	}
	const imageTokens, reasoningBytes = 1100, 6000
	parts := func(random *rand.Rand, n int64) prompt { // a text, an image or encrypted reasoning
		text, tokens := corpora["prose"].take(random, n)
		list := []any{map[string]any{"type": "text", "text": text}}
		if random.IntN(2) == 0 {
			url := "data:image/png;base64," + base64Of(random, 100_000)
			return prompt{append(list, map[string]any{"type": "image_url", "image_url": map[string]any{"url": url}}), tokens + imageTokens}
		}
		data := base64Of(random, reasoningBytes)
		return prompt{append(list, map[string]any{"type": "reasoning.encrypted", "data": data}), tokens + reasoningBytes/4}
	}
	kinds := []string{"prose", "code", "Chinese", "JSON"}
	mixed := func(random *rand.Rand, n int64) prompt {
		if i := random.IntN(len(kinds) + 1); i < len(kinds) {
			return plain(kinds[i])(random, n)
		}
		return parts(random, n)
	}
	var list []*study
	for _, kind := range append(kinds, "base64 parts", "mixed") {
		s := &study{name: kind}
		list = append(list, s)
		of, sample := map[string]func(*rand.Rand, int64) prompt{"base64 parts": parts, "mixed": mixed}[kind], calls
		if of == nil {
			of = plain(kind)
		} else if kind == "base64 parts" {
			sample = calls[:4000] // of 100 kB each
		}
		s.run(t, sample, of)
		if s.deniedWith > 0 {
			t.Errorf("%s: %d calls that fit are denied for good, want none", kind, s.deniedWith)
		}
		if total := float64(s.estimated) / float64(s.real); total < 1 || total > 1.6 {
			t.Errorf("%s: estimates are %.2f times the real tokens, want 1 to 1.6", kind, total)
		}
	}
	table := studyTable(list)
	t.Logf("\n%s", table)
	if *studyDir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(*studyDir, "estimator.svg"), []byte(studyPicture(list)), 0o644); err != nil {
		t.Fatal(err)
	}
	page := filepath.Join(*studyDir, "estimator.md")
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- results -->\n", "<!-- end of results -->"
	from, to := strings.Index(string(text), begin), strings.Index(string(text), end)
	if from < 0 || to < from {
		t.Fatalf("%s has no place for the results", page)
	}
	if err := os.WriteFile(page, []byte(string(text[:from])+begin+table+string(text[to:])), 0o644); err != nil {
		t.Fatal(err)
	}
}

func studyTable(list []*study) string {
	var b strings.Builder
	b.WriteString("| content | calls | real tokens | estimated / real, in all | p1 | p50 | p99 | estimated too low | denied for good although they fit | the same without `estimated_input` |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, s := range list {
		fmt.Fprintf(&b, "| %s | %d | %d | %.2f | %.2f | %.2f | %.2f | %.1f %% | %d | %d |\n", s.name, s.calls, s.real, float64(s.estimated)/float64(s.real),
			s.percentile(1), s.percentile(50), s.percentile(99), 100*float64(s.under)/float64(s.calls), s.deniedWith, s.without)
	}
	return b.String()
}

// studyPicture draws a bar from the 1st to the 99th percentile of each kind of content,
// with a dot at the median.
func studyPicture(list []*study) string {
	const width, left, top, row, scale, most = 720, 110, 70, 38, 270, 2.0
	height := top + row*len(list) + 50
	x := func(ratio float64) float64 { return left + min(ratio, most)*scale }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-labelledby="title">`+"\n", width, height, width, height)
	b.WriteString(`<title id="title">Estimated input tokens divided by real ones, by content</title>
<style>
svg { color-scheme: light dark; font: 12px system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; --card: #ffffff; --ink: #1a1f26; --muted: #59636f; --grid: #e3e7ec; --bar: #1a66c8; --one: #17784c; }
@media (prefers-color-scheme: dark) { svg { --card: #181c23; --ink: #e9ecf0; --muted: #a2acb8; --grid: #2a313b; --bar: #6cb0ff; --one: #58cf96; } }
.paper { fill: var(--card); stroke: var(--grid); } text { fill: var(--ink); } .tick { fill: var(--muted); } .heading { font-size: 17px; font-weight: 650; }
.grid { stroke: var(--grid); } .one { stroke: var(--one); stroke-width: 2; } .bar { fill: var(--bar); opacity: .35; } .dot { fill: var(--bar); }
</style>
`)
	fmt.Fprintf(&b, `<rect class="paper" x="0.5" y="0.5" width="%d" height="%d" rx="12"/>`+"\n", width-1, height-1)
	b.WriteString(`<text class="heading" x="24" y="32">Estimated input tokens, divided by real ones</text>` + "\n")
	b.WriteString(`<text class="tick" x="24" y="52">Bars: 1st to 99th percentile of the calls. Dots: median. At 1 the estimate is exact; right of it, it errs high.</text>` + "\n")
	bottom := top + row*len(list)
	for _, tick := range []float64{0, 0.5, 1, 1.5, 2} {
		class := "grid"
		if tick == 1 {
			class = "one"
		}
		fmt.Fprintf(&b, `<line class="%s" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/><text class="tick" text-anchor="middle" x="%.1f" y="%d">%.1f</text>`+"\n", class, x(tick), top, x(tick), bottom, x(tick), bottom+20, tick)
	}
	for i, s := range list {
		y := top + row*i
		from, to := x(s.percentile(1)), x(s.percentile(99))
		fmt.Fprintf(&b, `<text text-anchor="end" x="%d" y="%d">%s</text><rect class="bar" x="%.1f" y="%d" width="%.1f" height="18" rx="4"/><circle class="dot" cx="%.1f" cy="%d" r="5"/>`+"\n",
			left-12, y+23, s.name, from, y+10, max(to-from, 2), x(s.percentile(50)), y+19)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
