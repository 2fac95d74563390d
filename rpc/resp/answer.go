// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"strconv"
	"time"

	"github.com/tidwall/redcon"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/pb"
)

// none is a time that there is not, in milliseconds.
const none = -1

// object writes names and values: in RESP3 a map, in RESP2 an array of them all.
type object struct {
	b     []byte
	resp3 bool
	start int // of the header
	pairs int
}

// headerSpace is the length of the header of an object with 10 to 99 pairs, or in RESP2 half as
// many. That of another one is moved.
const headerSpace = len("*10\r\n")

func begin(b []byte, resp3 bool) object {
	return object{b: append(b, "     "...), resp3: resp3, start: len(b)}
}

// end writes the header, and returns what was written.
func (o *object) end() []byte {
	var buffer [24]byte
	header := appendMap(buffer[:0], o.resp3, o.pairs)
	if len(header) == headerSpace {
		copy(o.b[o.start:], header)
		return o.b
	}
	body := o.b[o.start+headerSpace:]
	if extra := len(header) - headerSpace; extra > 0 {
		o.b = append(o.b, header[:extra]...) // room
		copy(o.b[o.start+len(header):], o.b[o.start+headerSpace:len(o.b)-extra])
	} else {
		copy(o.b[o.start+len(header):], body)
		o.b = o.b[:len(o.b)+extra]
	}
	copy(o.b[o.start:], header)
	return o.b
}

// appendMap appends the header of a map, or of the array in its place.
func appendMap(b []byte, resp3 bool, pairs int) []byte {
	if !resp3 {
		return redcon.AppendArray(b, 2*pairs)
	}
	b = strconv.AppendInt(append(b, '%'), int64(pairs), 10)
	return append(b, '\r', '\n')
}

func (o *object) name(name string) {
	o.pairs++
	o.b = redcon.AppendBulkString(o.b, name)
}

func (o *object) text(name, value string) {
	o.name(name)
	o.b = redcon.AppendBulkString(o.b, value)
}

func (o *object) number(name string, n int64) {
	o.name(name)
	o.b = redcon.AppendInt(o.b, n)
}

// present writes what is absent if it is empty, 0 or false.

func (o *object) presentText(name, value string) {
	if value != "" {
		o.text(name, value)
	}
}

func (o *object) presentNumber(name string, n int64) {
	if n != 0 {
		o.number(name, n)
	}
}

func (o *object) presentFlag(name string, b bool) {
	if b {
		o.number(name, 1)
	}
}

// Names of the values of enums, as the HTTP API has them.
var (
	outcomes = [...]string{"unspecified", "allowed", "degraded", "denied"}
	reasons  = [...]string{"", "limit_exceeded", "exceeds_capacity", "no_price", "owner_unreachable", "table_full", "ids_full"}
	statuses = [...]string{"unspecified", "held", "settled", "cancelled", "expired"}
	routes   = [...]string{"unspecified", "local", "forward", "slice", "fallback"}
)

// nameOf returns the name of a value, of which another version may have more.
func nameOf(names []string, value int32) string {
	if value < 0 || int(value) >= len(names) {
		return "unknown"
	}
	return names[value]
}

// milliseconds returns a duration in milliseconds, rounded up: none if there is none.
func milliseconds(d *durationpb.Duration) int64 {
	if d == nil {
		return none
	}
	return ceil(d.AsDuration())
}

func ceil(d time.Duration) int64 {
	return int64(explain.Ceil(d, time.Millisecond) / time.Millisecond)
}

// asked is what the message of a denial says of the call.
type asked struct {
	model   string
	maxWait *durationpb.Duration // nil: it did not say
}

// appendDecision appends the answer to a check or a reserve.
func appendDecision(b []byte, resp3 bool, d *pb.Decision, q asked, now time.Time) []byte {
	o := begin(b, resp3)
	o.text("outcome", nameOf(outcomes[:], int32(d.GetOutcome())))
	o.text("reason", nameOf(reasons[:], int32(d.GetReason())))
	o.number("retry_after_ms", milliseconds(d.RetryAfter))
	o.text("request_id", d.GetRequestId())
	o.text("tier", d.GetTier())
	if d.GrantedOutputTokens != nil {
		o.number("granted_output_tokens", d.GetGrantedOutputTokens())
	}
	o.presentFlag("bound_output", d.GetBoundOutput())
	if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED {
		o.denial(d, q)
	}
	o.presentText("priority", explain.ClassFromWire(d.GetPriority()))
	if d.Waited != nil {
		o.number("waited_ms", milliseconds(d.Waited))
	}
	o.presentNumber("place", d.GetPlace())
	o.presentText("wait_refused", d.GetWaitRefused())
	o.state(d.GetPolicyVersion(), d.GetOwner(), d.GetRoute(), d.GetLimits(), now)
	return o.end()
}

// denial writes what a denial has in addition: the message for people, and which limit denied.
func (o *object) denial(d *pb.Decision, q asked) {
	x := explain.FromWire(d, q.model)
	if q.maxWait != nil {
		x.MaxWait = min(x.MaxWait, q.maxWait.AsDuration())
	}
	o.text("message", explain.Message(&x))
	if l := x.Binding; l != nil {
		o.text("dimension", l.Dimension)
		o.text("name", l.Name)
		o.text("scope", l.Scope)
	}
}

// appendSettlement appends the answer to a settle or a cancel.
func appendSettlement(b []byte, resp3 bool, s *pb.Settlement, now time.Time) []byte {
	o := begin(b, resp3)
	o.text("status", nameOf(statuses[:], int32(s.GetStatus())))
	o.text("request_id", s.GetRequestId())
	o.text("tier", s.GetTier())
	o.state(s.GetPolicyVersion(), s.GetOwner(), s.GetRoute(), s.GetLimits(), now)
	return o.end()
}

// appendPeek appends the answer to a look at limits.
func appendPeek(b []byte, resp3 bool, p *pb.PeekResponse, now time.Time) []byte {
	o := begin(b, resp3)
	o.text("tier", p.GetTier())
	o.state(p.GetPolicyVersion(), p.GetOwner(), p.GetRoute(), p.GetLimits(), now)
	return o.end()
}

// state writes what ends every answer: where it comes from, and the limits.
func (o *object) state(version, owner string, route pb.Route, limits []*pb.LimitState, now time.Time) {
	o.text("policy_version", version)
	o.text("owner", owner)
	o.text("route", nameOf(routes[:], int32(route)))
	o.name("limits")
	o.b = redcon.AppendArray(o.b, len(limits))
	for _, l := range limits {
		o.b = appendLimit(o.b, o.resp3, l, now)
	}
}

func appendLimit(b []byte, resp3 bool, l *pb.LimitState, now time.Time) []byte {
	o := begin(b, resp3)
	o.text("name", l.GetName())
	o.number("limit", l.GetLimit())
	o.number("remaining", l.GetRemaining())
	reset := int64(none)
	if at := l.GetResetAt(); at != nil {
		reset = max(ceil(at.AsTime().Sub(now)), 0)
	}
	o.number("reset_ms", reset)
	o.text("dimension", l.GetDimension())
	o.text("scope", l.GetScope())
	o.text("algorithm", l.GetAlgorithm())
	o.presentNumber("debt", l.GetDebt())
	o.presentNumber("credit", l.GetCredit())
	o.presentFlag("shadow", l.GetShadow())
	o.presentFlag("exceeded", l.GetExceeded())
	o.presentFlag("hidden", l.GetHidden())
	o.presentFlag("per_model", l.GetPerModel())
	o.presentNumber("headroom", l.GetHeadroom())
	if l.MaxWait != nil {
		o.number("max_wait_ms", milliseconds(l.MaxWait))
	}
	return o.end()
}
