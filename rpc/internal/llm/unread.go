// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/text"
)

// NewUnread returns the request of a call to an endpoint that is not known, with the model
// that it names. Its answer is read for the usage that it reports, and for the images that
// the path promises.
func NewUnread(requestPath, model string) *Request {
	return &Request{Endpoint: Other, Model: model, N: 1, StoredInput: true, answer: answerOf(requestPath)}
}

// MayNameModel reports whether a body with a content type, of which the first bytes are
// known, may name a model: a JSON object or a form.
func MayNameModel(contentType string, first []byte) bool {
	kind, _, _ := mime.ParseMediaType(contentType)
	return kind == "multipart/form-data" || isForm(kind, first) || isObject(first)
}

func isObject(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n")
	return len(body) > 0 && body[0] == '{'
}

func isForm(kind string, body []byte) bool {
	return kind == "application/x-www-form-urlencoded" && !isObject(body)
}

// ModelOfBody returns the model that a body names, for an endpoint that is not known: the
// member or the field model of a JSON object or a form. It is empty if there is none.
// whole: the body is not only the beginning of one. The error is a [*FieldError]: servers
// could read the body in different ways.
func ModelOfBody(contentType string, body []byte, whole bool) (string, error) {
	kind, params, _ := mime.ParseMediaType(contentType)
	switch {
	case kind == "multipart/form-data":
		return modelOfParts(body, params["boundary"])
	case isForm(kind, body):
		values, _ := url.ParseQuery(string(body)) // pairs that are invalid are not fields
		return onlyModel(values["model"])
	case !isObject(body):
		return "", nil
	case !whole:
		return modelOfBeginning(body), nil
	}
	r, err := Parse(Other, body)
	switch {
	case err == nil:
		return r.Model, nil
	case kind == "" || strings.HasSuffix(kind, "json") || strings.HasPrefix(kind, "text/") || kind == "application/x-www-form-urlencoded":
		return "", err
	}
	return "", nil // not JSON: it only begins like an object
}

// modelOfBeginning returns the model in the beginning of a JSON object.
func modelOfBeginning(body []byte) string {
	p := parser{r: &Request{Endpoint: Other, N: 1, body: body}, prompts: 1}
	p.reset(body)
	for p.enter('{'); p.member(); {
		p.readMember(p.name())
	}
	return p.r.Model
}

// modelOfParts returns the model of a form in parts.
func modelOfParts(body []byte, boundary string) (string, error) {
	if boundary == "" {
		return "", nil
	}
	var models []string
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := r.NextRawPart()
		if err != nil { // the end, or not a form
			return onlyModel(models)
		}
		if part.FormName() != "model" || part.FileName() != "" {
			continue
		}
		value, err := io.ReadAll(io.LimitReader(part, text.MaxNameBytes+1))
		if err != nil && !errors.Is(err, io.EOF) {
			return onlyModel(models)
		}
		models = append(models, string(value))
	}
}

// onlyModel returns the one model of a form. Servers differ in which of several they use.
func onlyModel(models []string) (string, error) {
	if len(models) == 0 {
		return "", nil
	}
	for _, other := range models[1:] {
		if other != models[0] {
			return "", &FieldError{"model", "must be given once, got " + text.Quote(models[0]) + " and " + text.Quote(other)}
		}
	}
	if !utf8.ValidString(models[0]) {
		return "", &FieldError{"model", "must be valid UTF-8, got " + text.Quote(models[0])}
	}
	return models[0], nil
}
