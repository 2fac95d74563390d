// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"strconv"
	"unicode/utf8"
)

// maxAmount is the largest number that is believed, of anybody: beyond it many
// readers of JSON lose digits.
const maxAmount = 1 << 53

// What a part of a prompt that is no text counts for in Request.InputBytes, by its
// kind and not by its size: at three bytes per token about 1,600, 1,000, 10,000 and
// 3,000 tokens. The usage block of the answer tells what it really was.
const (
	ImageBytes = 4_800
	AudioBytes = 3_000
	VideoBytes = 30_000
	FileBytes  = 9_000
)

// Request is what a body says about the cost of a call.
type Request struct {
	Endpoint Endpoint
	Model    string // "": the server has a default

	// MaxOutput is the output bound of one choice in tokens: the largest one of
	// max_tokens, max_completion_tokens and llama.cpp's n_predict. -1: absent. Embeddings: 0.
	MaxOutput int64
	// MinOutput is a floor that the request itself sets, never above MaxOutput: less
	// output is refused by the server, or is worth nothing. 0: none. It is the
	// largest of min_tokens, thinking.budget_tokens + 256, and 16 for Responses.
	MinOutput int64
	// N is the number of choices, each of which may be MaxOutput long: max(n,
	// best_of, n_cmpl), times the prompts of a list.
	N int64

	Stream       bool
	IncludeUsage bool // the caller asked for the usage chunk itself

	// InputBytes is about how much the model reads, in bytes: the strings (escapes
	// resolved), numbers and names in messages, tools, schemas, prompts and inputs.
	// Names stand for what the server's template puts around messages. Images, audio,
	// video and files count for ImageBytes, AudioBytes, VideoBytes and FileBytes each,
	// whether they are inline or not.
	InputBytes int64
	// InputTokens are known exactly, as prompts were given as token ids. They come
	// on top of InputBytes.
	InputTokens int64
	// HiddenInput: the model also reads what the server keeps, such as the turns
	// before previous_response_id. InputBytes knows nothing of it.
	HiddenInput bool

	// Uncuttable: the output has to be whole to be of use, since it is JSON of a
	// schema, of another grammar, or may call tools.
	Uncuttable bool

	body    []byte
	empty   bool      // the object has no members
	first   int       // where its first member goes
	bounds  [3]member // of the output
	stream  member    // stream_options
	options int       // where the first member of stream_options goes, 0: it is null
	none    bool      // stream_options has no members
	usage   member    // stream_options.include_usage
}

// member is where the value of a member stands in the body; end 0: it is absent.
type member struct {
	start, end int
	n          int64 // a bound; -1: null
}

// FieldError says what is wrong with a request.
type FieldError struct {
	Field   string // a path such as messages[2].content; body: all of it
	Problem string // "must be a whole number of at least 1, got -3"
}

// Error names the field and the problem.
func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Parse reads the body of a request. Its error is a *FieldError. The body must
// stay as it is until Release.
func Parse(e Endpoint, body []byte) (*Request, error) {
	p := parser{r: &Request{Endpoint: e, MaxOutput: -1, N: 1, body: body}, prompts: 1}
	if err := p.parse(); err != nil {
		return nil, err
	}
	return p.r, nil
}

// Release lets go of the body: what is to be kept for as long as an answer takes is
// small. Rewrite must not be called after it.
func (r *Request) Release() { r.body = nil }

// maxShown is how many bytes of a wrong name or value a message repeats.
const maxShown = 64

// shown is a text in a message: escaped, so that it garbles no log or header, and
// cut when it is long.
func shown(b []byte) string {
	if len(b) <= maxShown {
		return strconv.Quote(string(b))
	}
	end := maxShown
	for !utf8.RuneStart(b[end]) {
		end--
	}
	return strconv.Quote(string(b[:end])) + "... (" + strconv.Itoa(len(b)) + " bytes)"
}

// shownName is a name in a path: as it is if it looks like one.
func shownName(b []byte) string {
	for _, c := range b {
		if !nameByte(c) {
			return shown(b)
		}
	}
	if len(b) == 0 || len(b) > maxShown {
		return shown(b)
	}
	return string(b)
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '$'
}
