// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"bytes"
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
	kind := kindOf(contentType)
	return kind == partsKind || kind == pairsKind || isObject(first) || isRecodedObject(first)
}

// The content types of forms.
const (
	partsKind = "multipart/form-data"
	pairsKind = "application/x-www-form-urlencoded"
)

// kindOf returns a content type without its parameters, whether or not they are valid.
func kindOf(contentType string) string {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

func isObject(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n")
	return len(body) > 0 && body[0] == '{'
}

// isRecodedObject reports whether a body begins like a JSON object in UTF-16, in UTF-32 or
// after a byte order mark, which servers in Python read.
func isRecodedObject(body []byte) bool {
	plain := bytes.TrimLeft(body[:min(len(body), 64)], "\xef\xbb\xbf\xfe\xff\x00 \t\r\n")
	return !isObject(body) && len(plain) > 0 && plain[0] == '{'
}

// isJSON reports whether servers may read a body of a kind as JSON.
func isJSON(kind string) bool {
	return kind == "" || kind == pairsKind || strings.HasSuffix(kind, "json") || strings.HasPrefix(kind, "text/")
}

// ModelOfBody returns the model that a body names, for an endpoint that is not known: the
// member or the field model of a JSON object or a form. It is empty if there is none.
// whole: the body is not only the beginning of one. The error is a [*FieldError]: servers
// could read the body in different ways.
func ModelOfBody(contentType string, body []byte, whole bool) (string, error) {
	kind := kindOf(contentType)
	switch {
	case kind == partsKind:
		return modelOfParts(contentType, body, whole)
	case isRecodedObject(body) && isJSON(kind):
		return "", &FieldError{"body", "must be UTF-8 without a byte order mark"}
	case kind == pairsKind && !isObject(body):
		return onlyModel(modelsOfPairs(body))
	case !isObject(body):
		return "", nil
	case !whole:
		return modelOfBeginning(body), nil
	}
	r, err := Parse(Other, body)
	switch {
	case err == nil && kind == pairsKind && r.Model != "":
		return onlyModel(append(modelsOfPairs(body), r.Model))
	case err == nil && kind == pairsKind:
		return onlyModel(modelsOfPairs(body))
	case err == nil:
		return r.Model, nil
	case isJSON(kind):
		return "", err
	}
	return "", nil // not JSON: it only begins like an object
}

// modelsOfPairs returns the models of a form in pairs, for servers that separate pairs by
// semicolons too and for those that do not.
func modelsOfPairs(body []byte) []string {
	values, _ := url.ParseQuery(string(body)) // pairs that are invalid are not fields
	split, _ := url.ParseQuery(strings.ReplaceAll(string(body), ";", "&"))
	return append(values["model"], split["model"]...)
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

// modelOfParts returns the model of a form in parts. A form that is not read to its end is
// rejected: some server could find a model in the rest.
func modelOfParts(contentType string, body []byte, whole bool) (string, error) {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" {
		return "", &FieldError{"Content-Type", "must have valid parameters and a boundary, got " + text.Quote(contentType)}
	}
	var models []string
	r := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		part, err := r.NextRawPart()
		if err == io.EOF || err != nil && !whole { //nolint:errorlint // NextRawPart wraps io.EOF if the form has no end
			return onlyModel(models)
		}
		if err != nil {
			return "", partsError(err)
		}
		name, file, err := nameOfPart(part)
		if err != nil {
			return "", err
		}
		if name != "model" || file {
			continue
		}
		value, err := io.ReadAll(io.LimitReader(part, text.MaxNameBytes+1))
		switch {
		case err == nil:
			models = append(models, string(value))
		case whole:
			return "", partsError(err)
		default:
			return onlyModel(models)
		}
	}
}

func partsError(err error) *FieldError {
	return &FieldError{"body", "must be a form in parts: " + text.Quote(err.Error())}
}

// nameOfPart returns the name of a part, and whether it is a file. It is read whatever its
// disposition is called, as servers in Python do.
func nameOfPart(part *multipart.Part) (name string, file bool, err error) {
	all := part.Header["Content-Disposition"]
	if len(all) == 0 {
		return "", false, nil
	}
	_, params, err := mime.ParseMediaType(all[0])
	if err != nil || len(all) > 1 || hasExtendedName(all[0]) {
		return "", false, &FieldError{"body", "must have parts with one name each, got " + text.Quote(strings.Join(all, ", "))}
	}
	return params["name"], params["filename"] != "", nil
}

// hasExtendedName reports whether the name of a part is given in the notation of RFC 2231,
// which some servers prefer to a name beside it, and others do not know.
func hasExtendedName(disposition string) bool {
	return strings.Contains(strings.ReplaceAll(strings.ToLower(disposition), "filename*", ""), "name*")
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
