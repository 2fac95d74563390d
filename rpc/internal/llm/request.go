// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"slices"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/text"
)

// What an image, audio, video or file in a prompt counts for in Request.InputBytes,
// whatever its size: at three bytes per token about 1,600, 1,000, 10,000 and 3,000
// tokens. The usage block of the answer has the real number. A long string of base64
// where no text is expected, such as encrypted reasoning, a signature or the result of
// an image tool, counts for its size up to OpaqueBytes: about 2,000 tokens.
const (
	ImageBytes = 4_800
	AudioBytes = 3_000
	VideoBytes = 30_000
	FileBytes  = 9_000

	OpaqueBytes = 6_000
)

// What input counts for in Request.HiddenTokens that a request refers to without showing
// it, whatever its size: StoredTokens for each member with a reference to what the server
// stores, such as previous_response_id, and a token for EmbedBytes of embedded prompts.
// That and what parts that are not text count for is one rule: it is reserved, and charged
// if the answer does not report its usage, for instance because the caller has left.
const (
	StoredTokens = 2_000
	EmbedBytes   = 1 << 10 // in base64, of which vectors of models have more
)

// Request is what the body of a call says about its cost.
type Request struct {
	Endpoint Endpoint
	Model    string // "": the server's default
	// ServiceTier is what the caller asks for, such as flex or priority. "": nothing.
	ServiceTier string

	// MaxOutput is the output bound of one choice in tokens: the largest of
	// max_tokens, max_completion_tokens and llama.cpp's n_predict. -1: there is none,
	// because they are absent, null, negative or, where servers disagree about it, 0. 0 for
	// embeddings.
	MaxOutput int64
	// MinOutput is the least output that the server accepts or that is of use, at most
	// MaxOutput: the largest of min_tokens, thinking.budget_tokens + 256, and 16 for
	// Responses. 0: none.
	MinOutput int64
	// N is the number of choices, each up to MaxOutput long: max(n, best_of, n_cmpl),
	// times the number of prompts.
	N int64

	Stream       bool
	IncludeUsage bool // the caller asked for the usage chunk
	usageAsked   bool // Rewrite asked for it instead

	// InputBytes is about how many bytes the model reads: the strings (unescaped),
	// numbers and names in messages, tools, schemas, prompts and inputs. Names stand
	// for what the server's template adds. An image, audio, video or file counts for
	// ImageBytes, AudioBytes, VideoBytes or FileBytes, inline or not, and encoded data
	// for OpaqueBytes at most.
	InputBytes int64
	// OpaqueBytes is what InputBytes leaves out of encoded data of unknown parts. A
	// server may have given it to the model, so without a report of its usage the call
	// is charged for it.
	OpaqueBytes int64
	// FixedSize: InputBytes includes parts that do not count for their size, so it says
	// nothing about bytes per token.
	FixedSize bool
	// InputTokens is the number of tokens of prompts that are token ids, in addition
	// to InputBytes.
	InputTokens int64
	// StoredInput: the model also reads what the server stores, such as the turns
	// before previous_response_id, or vectors. InputBytes does not include it.
	StoredInput bool
	// HiddenTokens is what StoredInput counts for.
	HiddenTokens int64

	// NoTruncation: a truncated output is useless, since it must match a schema or a
	// grammar, or may call tools.
	NoTruncation bool

	answer    answerKind // of Other
	textBytes int64      // of InputBytes: text that the server gives to the model in any case
	truncated bool       // the server may leave out a part of the input

	body          []byte
	empty         bool          // the body has no members
	firstMember   int           // offset of its first member
	bounds        [3]memberSpan // of the output
	streamOptions memberSpan
	optionsStart  int        // offset of the first member of stream_options; 0: it is null or absent
	optionsEmpty  bool       // stream_options has no members
	includeUsage  memberSpan // stream_options.include_usage
	addedOptions  edit       // the stream_options that Rewrite added, at its place in the result
}

// memberSpan is the span of a member's value in the body. If end is 0, it is absent.
type memberSpan struct {
	start, end  int
	n           int64 // a bound, noBound or nullBound
	nonstandard bool  // a bound that only some servers know
}

// Values of a member that bounds the output.
const (
	noBound   = -1 // a negative number, or 0 where it means nothing else
	nullBound = -2 // null, of the member that Rewrite would add
)

// FieldError is a problem of one field of a request.
type FieldError struct {
	Field   string // a path such as messages[2].content, or body
	Problem string // "must be a whole number of at least 1, got -3"
}

// Error names the field and the problem.
func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Parse parses the body of a request. Its error is a *FieldError. The body must not
// change until Release.
func Parse(e Endpoint, body []byte) (*Request, error) {
	p := parser{r: &Request{Endpoint: e, MaxOutput: -1, N: 1, body: body}, prompts: 1}
	if err := p.parse(); err != nil {
		return nil, err
	}
	return p.r, nil
}

// SetPathModel makes the model that the path of the request names, if there is one, the
// model of r. Its error is a *FieldError.
func (r *Request) SetPathModel(requestPath string) error {
	name := ModelOfPath(requestPath)
	if name == "" {
		return nil
	}
	if !utf8.ValidString(name) {
		return &FieldError{"model", "must be valid UTF-8 in the path, got " + text.Quote(name)}
	}
	r.Model = name
	return nil
}

// Release drops the body, so that only a small Request is kept while the answer runs.
// Rewrite must not be called after it.
func (r *Request) Release() { r.body = nil }

// HasPrompt reports whether the model reads something, as far as the request tells.
func (r *Request) HasPrompt() bool {
	return r.InputBytes > 0 || r.InputTokens > 0 || r.StoredInput && r.Endpoint != Other
}

// maxInputTokens is more than the number of tokens that the model reads: a token is a
// byte of the prompt at least. Templates of servers and their tools add some.
func (r *Request) maxInputTokens() int64 {
	if r.StoredInput {
		return amount.Max
	}
	return r.InputBytes + r.InputTokens + templateTokens
}

// KnownInputTokens is a number of tokens that the model reads in any case: those that are
// sent as token ids, and the fewest that the text can be.
func (r *Request) KnownInputTokens() int64 {
	if r.truncated {
		return 0
	}
	return r.InputTokens + r.textBytes/maxTokenBytes
}

// maxTokenBytes is more than the bytes of any token. The longest ones of public tokenizers
// are 128 spaces.
const maxTokenBytes = 256

// templateTokens is more than what templates and tools of servers usually add.
const templateTokens = 1 << 10

// pathName is a name as a part of a path, quoted unless it is short and plain.
func pathName(b []byte) string {
	if len(b) == 0 || len(b) > text.MaxShown || slices.ContainsFunc(b, func(c byte) bool { return !isNameByte(c) }) {
		return text.Quote(string(b))
	}
	return string(b)
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '$'
}
