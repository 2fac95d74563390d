// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/coding"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// serveCounted serves a call that [Options].Count meters. Only the model is read of its
// body.
func (m *Middleware) serveCounted(w http.ResponseWriter, r *http.Request, next http.Handler) {
	x := exchange{w: w, r: r, dialect: llm.OpenAI, began: time.Now(), method: r.URL.Path}
	id, err := m.options.Identify(r)
	if err != nil {
		m.reject(x, identityRejection(err))
		return
	}
	x.key = id.Key
	r2 := r.Clone(r.Context())
	r2.Header.Set("Accept-Encoding", "identity") // the usage in the response is read
	b := &body{budget: m.bodies, root: keypath.Root(id.Key)}
	defer b.release()
	model, rejection := m.modelOf(x, b, r2)
	if rejection == nil {
		rejection = checkModel(model)
	}
	if rejection != nil {
		m.reject(x, rejection)
		return
	}
	if model == "" {
		model = m.options.DefaultModel
	}
	x.model = model
	estimate := client.Estimate{Key: id.Key, Tier: id.Tier, Model: model, EstimatedInput: true, MaxOutputTokens: new(int64(0)), N: 1}
	if c := m.reserve(x, estimate, r.URL.Path); c != nil {
		m.serve(x, c, llm.NewUnread(r.URL.Path, model), b, r2, next)
	}
}

// modelOf returns the model of a call that is metered by count: Options.Model, that of
// the path, or that of the body. It reads up to MaxBodyBytes of the body, if that may name
// a model, and gives r a body with the same bytes.
func (m *Middleware) modelOf(x exchange, b *body, r *http.Request) (string, *rejection) {
	if m.options.Model != "" {
		return m.options.Model, nil
	}
	q := llm.NewUnread(r.URL.Path, "")
	if err := q.SetPathModel(r.URL.Path); err != nil {
		return "", fieldRejection(err)
	}
	if q.Model != "" || r.Body == nil || r.Body == http.NoBody {
		return q.Model, nil
	}
	rest := bufio.NewReader(r.Body)
	kind := r.Header.Get("Content-Type")
	codings, err := coding.Of(r.Header)
	first, _ := rest.Peek(64) // an error comes again
	if err != nil || len(codings) == 0 && !llm.MayNameModel(kind, first) {
		r.Body = joined{rest, r.Body}
		return "", nil
	}
	bounded := m.boundRead(x)
	if why := m.receive(b, io.LimitReader(rest, m.options.MaxBodyBytes), min(r.ContentLength, m.options.MaxBodyBytes)); why != nil {
		return "", why
	}
	if bounded {
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Time{})
	}
	beginning := b.bytes
	b.publish(beginning)
	reader, _ := b.newReader() // not released yet
	r.Body = joined{io.MultiReader(reader, rest), r.Body}
	_, err = rest.Peek(1)
	whole := errors.Is(err, io.EOF)
	if len(codings) > 0 {
		var why *rejection
		if beginning, why = m.decodeCopy(b.root, beginning, codings); why != nil || beginning == nil {
			return "", why
		}
	}
	model, err := llm.ModelOfBody(kind, beginning, whole)
	if err != nil {
		return "", fieldRejection(err)
	}
	return model, nil
}

// decodeCopy decodes a body for reading it here only, or returns nil if it cannot be
// decoded within MaxBodyBytes. It rejects the call only for lack of memory.
func (m *Middleware) decodeCopy(root string, encoded []byte, codings []coding.Coding) ([]byte, *rejection) {
	decoded := &body{budget: m.bodies, root: root}
	defer decoded.release()
	why := m.decode(decoded, bytes.NewReader(encoded), codings)
	if why != nil && why.code != codeBodyShare && why.code != codeBodyMemory {
		return nil, nil
	}
	return decoded.bytes, why
}

// joined is a body with another reader.
type joined struct {
	io.Reader
	io.Closer
}
