// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

func (u *user) want(command, want string) {
	u.t.Helper()
	if got := u.do(command); got != want {
		u.t.Errorf("%s\n got %s\nwant %s", command, got, want)
	}
}

// masked hides the version of the policy, which changes with it.
func masked(answer string) string {
	for _, sep := range []string{"policy_version ", "policy_version="} {
		if i := strings.Index(answer, sep); i >= 0 {
			i += len(sep)
			answer = answer[:i] + "VERSION" + answer[i+16:]
		}
	}
	return answer
}

// TestAnswers: every answer in RESP2, an array, and in RESP3, a map with the same.
func TestAnswers(t *testing.T) {
	const state2 = "policy_version VERSION owner node1 route local limits "
	const state3 = "policy_version=VERSION owner=node1 route=local limits="
	limit2 := func(left, reset int, more string) string {
		return fmt.Sprintf("[[name requests limit :1 remaining :%d reset_ms :%d dimension requests scope a algorithm token_bucket%s]]]", left, reset, more)
	}
	limit3 := func(left, reset int, more string) string {
		return fmt.Sprintf("[{name=requests limit=:1 remaining=:%d reset_ms=:%d dimension=requests scope=a algorithm=token_bucket%s}]}", left, reset, more)
	}
	for _, tt := range []struct{ command, resp2, resp3 string }{
		{
			"br.limits a Tier one",
			"[tier one " + state2 + limit2(1, 0, ""),
			"{tier=one " + state3 + limit3(1, 0, ""),
		},
		{
			"BR.RESERVE a TIER one REQUEST_ID r1 MAX_OUTPUT_TOKENS 5",
			"[outcome allowed reason  retry_after_ms :-1 request_id r1 tier one granted_output_tokens :5 " + state2 + limit2(0, 60000, ""),
			"{outcome=allowed reason= retry_after_ms=:-1 request_id=r1 tier=one granted_output_tokens=:5 " + state3 + limit3(0, 60000, ""),
		},
		{
			"Br.Check a TIER one",
			"[outcome denied reason limit_exceeded retry_after_ms :60000 request_id made-1 tier one message Request limit exceeded: 1 of 1 request used this minute by a. dimension requests name requests scope a " + state2 + limit2(0, 60000, " exceeded :1"),
			"{outcome=denied reason=limit_exceeded retry_after_ms=:60000 request_id=made-1 tier=one message=Request limit exceeded: 1 of 1 request used this minute by a. dimension=requests name=requests scope=a " + state3 + limit3(0, 60000, " exceeded=:1"),
		},
		{
			"BR.SETTLE a r1 OUTPUT_TOKENS 3 FINAL false",
			"[status held request_id r1 tier one " + state2 + limit2(0, 60000, ""),
			"{status=held request_id=r1 tier=one " + state3 + limit3(0, 60000, ""),
		},
		{
			"BR.CANCEL a r1",
			"[status cancelled request_id r1 tier one " + state2 + limit2(1, 0, ""),
			"{status=cancelled request_id=r1 tier=one " + state3 + limit3(1, 0, ""),
		},
		{
			"BR.CHECK a/b/c TIER media COSTS images=2 REQUESTS 2",
			"[outcome allowed reason  retry_after_ms :-1 request_id made-2 tier media " + state2 + "[[name preview limit :1 remaining :1 reset_ms :0 dimension requests scope a/b/c algorithm token_bucket shadow :1 exceeded :1] " +
				"[name pictures limit :3 remaining :1 reset_ms :3656250 dimension images scope a/b/c algorithm sliding_window]]]",
			"{outcome=allowed reason= retry_after_ms=:-1 request_id=made-2 tier=media " + state3 + "[{name=preview limit=:1 remaining=:1 reset_ms=:0 dimension=requests scope=a/b/c algorithm=token_bucket shadow=:1 exceeded=:1} " +
				"{name=pictures limit=:3 remaining=:1 reset_ms=:3656250 dimension=images scope=a/b/c algorithm=sliding_window}]}",
		},
	} {
		for proto, want := range map[int]string{2: tt.resp2, 3: tt.resp3} {
			t.Run(fmt.Sprintf("%s in RESP%d", strings.Fields(tt.command)[0], proto), func(t *testing.T) {
				// All commands up to this one, at a node of its own.
				u := newNode(t).dial()
				u.do(fmt.Sprint("HELLO ", proto))
				for _, before := range []string{
					"br.limits a Tier one", "BR.RESERVE a TIER one REQUEST_ID r1 MAX_OUTPUT_TOKENS 5", "Br.Check a TIER one", "BR.SETTLE a r1 OUTPUT_TOKENS 3 FINAL false", "BR.CANCEL a r1",
				} {
					if before == tt.command {
						break
					}
					u.do(before)
				}
				if got := masked(u.do(tt.command)); got != want {
					t.Errorf("%s\n got %s\nwant %s", tt.command, got, want)
				}
			})
		}
	}
}

// TestDegraded: the grant of a degraded reserve is in the answer.
func TestDegraded(t *testing.T) {
	u := newNode(t).dial()
	if got := u.do("BR.RESERVE a TIER shrink MAX_OUTPUT_TOKENS 5000 MIN_OUTPUT_TOKENS 100"); !strings.HasPrefix(got, "[outcome degraded reason ") || !strings.Contains(got, " granted_output_tokens :992 ") {
		t.Errorf("degraded reserve = %s", got)
	}
}

// TestErrors: each names field and value, as the HTTP API does, and ends nothing.
func TestErrors(t *testing.T) {
	u := newNode(t).dial()
	for _, tt := range []struct{ command, want string }{
		{"BR.CHECK", "-ERR wrong number of arguments for 'br.check' command"},
		{"BR.SETTLE a", "-ERR wrong number of arguments for 'br.settle' command"},
		{"BR.CHECK a TEIR one", `-ERR "TEIR": unknown field; did you mean tier?`},
		{"BR.CHECK a zzz one", `-ERR "zzz": unknown field; known are key, tier, model, requests, input_tokens, output_tokens, costs, service_tier, max_wait_seconds, priority, request_id`},
		{"BR.CHECK a TIER", "-ERR tier: must be followed by a value"},
		{"BR.CHECK a TIER one tier two", "-ERR tier: is given twice"},
		{"BR.CHECK a KEY b", "-ERR key: is given twice"},
		{"BR.SETTLE a r REQUEST_ID b", "-ERR request_id: is given twice"},
		{"BR.CANCEL a r TIER b", `-ERR "TIER": unknown field; known are key, request_id`},
		{"BR.CHECK a REQUESTS -1", "-ERR requests: must not be negative, got -1"},
		{"BR.CHECK a REQUESTS 1.5", "-ERR requests: must be a whole number, got 1.5"},
		{"BR.CHECK a REQUESTS many", `-ERR requests: must be a number, got "many"`},
		{"BR.CHECK a INPUT_TOKENS 1e99", "-ERR input_tokens: must be at most 2^53, got 1e99"},
		{"BR.CHECK a COSTS images", `-ERR costs: must be in the form images=2,videos=1, got "images"`},
		{"BR.CHECK a COSTS images=2,images=1", "-ERR costs.images: is given twice"},
		{"BR.CHECK a COSTS images=x", `-ERR costs.images: must be a number, got "x"`},
		{"BR.CHECK a COSTS token=1", "-ERR costs.token: looks like a misspelled tokens, which is a built-in dimension: send input_tokens and the output, tokens is their sum, got 1"},
		{"BR.CHECK a COSTS tokens=1", "-ERR costs.tokens: is a built-in dimension: send input_tokens and the output, tokens is their sum, got 1"},
		{"BR.CHECK a PRIORITY urgent", `-ERR priority: must be interactive, standard or batch, got "urgent"`},
		{"BR.CHECK a MAX_WAIT_SECONDS -1", "-ERR max_wait_seconds: must not be negative, got -1"},
		{"BR.CHECK a MAX_WAIT_SECONDS soon", `-ERR max_wait_seconds: must be a number, got "soon"`},
		{"BR.RESERVE a ESTIMATED_INPUT maybe", `-ERR estimated_input: must be 1, 0, true or false, got "maybe"`},
		{"BR.RESERVE a TTL_SECONDS 0", "-ERR ttl_seconds: must be between 1 and 3600, got 0"},
		{"BR.CHECK a//b", `-ERR key: segments must not be empty, got "a//b"`},
		{"BR.CHECK a TIER nothing", ""},
		{"BR.SETTLE a r", "-ERR unknown_reservation: unknown reservation"},
		{"GET a", "-ERR unknown command 'GET', with args beginning with: 'a' "},
		{"BR.CHEK a", "-ERR unknown command 'BR.CHEK', with args beginning with: 'a' ; did you mean BR.CHECK?"},
		{"br.setle", "-ERR unknown command 'br.setle', with args beginning with: ; did you mean BR.SETTLE?"},
		{"SELECT 1", `-ERR DB index is out of range: there is only 0, got "1"`},
		{"HELLO 4", "-NOPROTO unsupported protocol version"},
		{"HELLO 3 FOO", `-ERR Syntax error in HELLO option "FOO"`},
		{"CLIENT SETNAME a\x01", "-ERR Client names cannot contain spaces, newlines or special characters"},
	} {
		got := u.do(tt.command)
		if tt.want == "" {
			if !strings.HasPrefix(got, "-ERR tier: ") {
				t.Errorf("%s = %s, want an error that names the tier", tt.command, got)
			}
		} else if got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.command, got, tt.want)
		}
	}
	u.do("BR.RESERVE a TIER one REQUEST_ID x")
	if got := u.do("BR.CHECK a TIER one REQUEST_ID x"); !strings.HasPrefix(got, "-ERR request_id_conflict: ") {
		t.Errorf("another call with a known id = %s", got)
	}
	u.want("PING", "+PONG")
}

// TestProtocolErrors: what is not the protocol is answered, and ends the connection.
func TestProtocolErrors(t *testing.T) {
	n := newNode(t)
	for _, tt := range []struct{ sent, want string }{
		{"*1\r\n$-2\r\n", "-ERR Protocol error: invalid bulk length"},
		{"*1\r\n$9223372036854775807\r\nx", "-ERR Protocol error: invalid bulk length"},
		{"*9223372036854775807\r\n", "-ERR Protocol error: invalid multibulk length"},
		{"*999999999\r\n", "-ERR Protocol error: invalid multibulk length"},
		{"*1\r\n:5\r\n", `-ERR Protocol error: expected '$', got ":"`},
		{"*1\r\n$4\r\nPINGxx", "-ERR Protocol error: a bulk string does not end with CRLF"},
		{"*x\r\n", "-ERR Protocol error: invalid multibulk length"},
		{"*1\r\n$70000\r\n", "-ERR Protocol error: invalid bulk length"},
		{"*2\r\n$4\r\nECHO\r\n$65536\r\n" + strings.Repeat("x", 65536) + "\r\n", "-ERR Protocol error: a command must have at most 65536 bytes"},
		{"ECHO \"a\r\n", "-ERR Protocol error: unbalanced quotes in request"},
		{strings.Repeat("x", 70000), "-ERR Protocol error: a command must have at most 65536 bytes"},
		{"POST / HTTP/1.1\r\nHost: x\r\n\r\nBR.CHECK a\r\n", "-ERR Protocol error: this address speaks the Redis protocol, not HTTP"},
		{"$5 hello\r\n", "-ERR Protocol error: expected '*', got '$'"},
	} {
		u := n.dial()
		u.send("*1\r\n$4\r\nPING\r\n" + tt.sent)
		if got := u.receive(); got != "+PONG" {
			t.Errorf("PING before %.40q = %s", tt.sent, got)
		}
		if got := u.receive(); got != tt.want {
			t.Errorf("%.40q\n got %s\nwant %s", tt.sent, got, tt.want)
		}
		if _, err := u.r.ReadByte(); err == nil {
			t.Errorf("the connection goes on after %.40q", tt.sent)
		}
	}
}

// TestStandardCommands: what clients send when they connect.
func TestStandardCommands(t *testing.T) {
	u := newNode(t).dial()
	u.want("PING", "+PONG")
	u.want("ping hello", "hello")
	u.want("ECHO hi", "hi")
	u.want("SELECT 0", "+OK")
	u.want("CLIENT GETNAME", "nil")
	u.want("CLIENT SETNAME worker-1", "+OK")
	u.want("CLIENT GETNAME", "worker-1")
	u.want("CLIENT SETINFO LIB-NAME x", "+OK")
	u.want("CLIENT ID", ":1")
	u.want("AUTH anything", "+OK") // nobody needs to say who calls, as at the other interfaces
	u.want("AUTH default anything", "+OK")
	u.want("CONFIG GET save", "[save ]")
	u.want("CONFIG GET appendonly", "[appendonly no]")
	u.want("CONFIG GET maxmemory", "[]")
	u.want("COMMAND COUNT", fmt.Sprint(":", len(allCommands())))
	u.want("COMMAND INFO ping get", "[[ping :-1 [+fast] :0 :0 :0] nil]")
	u.want("COMMAND INFO br.settle", "[[br.settle :-3 [+fast] :1 :1 :1]]")
	u.want("COMMAND DOCS ping", "[ping [summary answers with PONG or its argument since 1.0.0 group connection]]")
	u.want("HELLO", "[server bucketring version v0 proto :2 id :1 mode standalone role master modules []]")
	u.want("HELLO 3 SETNAME other", "{server=bucketring version=v0 proto=:3 id=:1 mode=standalone role=master modules=[]}")
	u.want("CLIENT GETNAME", "other")
	u.want("CONFIG GET save", "{save=}")
	u.want("COMMAND INFO get", "[nil]")
	u.want("RESET", "+RESET")
	u.want("CLIENT GETNAME", "nil")
	if got := u.do("CLIENT LIST"); !strings.HasPrefix(got, "id=1 addr=127.0.0.1:") || !strings.Contains(got, " resp=2\n") {
		t.Errorf("CLIENT LIST = %q", got)
	}
	if got := u.do("INFO"); !strings.Contains(got, "redis_version:") || !strings.Contains(got, "connected_clients:1\r\n") {
		t.Errorf("INFO = %q", got)
	}
	if got := u.do("COMMAND"); !strings.HasPrefix(got, "[[br.check :-2 [+fast] :1 :1 :1] ") {
		t.Errorf("COMMAND = %q", got)
	}
	// What a person types, and empty commands.
	u.send("\r\n  \r\n*0\r\necho \"a b\"\r\nquit\r\nping\r\n")
	if got := u.receive(); got != "a b" {
		t.Errorf("inline echo = %q", got)
	}
	if got := u.receive(); got != "+OK" {
		t.Errorf("quit = %q", got)
	}
	if rest, err := io.ReadAll(u.r); err != nil || len(rest) != 0 {
		t.Errorf("after quit came %q, %v", rest, err)
	}
}

// recorder notes the batches that are decided.
type recorder struct {
	server.Decider
	batches []string
}

func (r *recorder) Do(ctx context.Context, calls []call.Call) *server.Results {
	var kinds []string
	for i := range calls {
		kinds = append(kinds, calls[i].Kind.String())
	}
	r.batches = append(r.batches, strings.Join(kinds, " "))
	return r.Decider.Do(ctx, calls)
}

// TestPipeline: a pipeline is one batch, unless that would change what its calls see, and
// answered in order.
func TestPipeline(t *testing.T) {
	var r *recorder
	n := newNode(t, func(o *Options) { r = &recorder{Decider: o.Decider}; o.Decider = r })
	u := n.dial()
	for _, tt := range []struct {
		commands []string
		batches  []string
	}{
		{[]string{"BR.CHECK a", "BR.CHECK b", "BR.CHECK a"}, []string{"check check check"}},
		{[]string{"BR.RESERVE c REQUEST_ID 1", "BR.SETTLE c 1", "BR.CHECK c"}, []string{"reserve settle check"}},
		{[]string{"BR.CHECK d REQUESTS 3", "BR.LIMITS d", "BR.CHECK d"}, []string{"check", "peek check"}},
		{[]string{"BR.CHECK e", "PING", "BR.CHECK e"}, []string{"check", "check"}},
		{[]string{"BR.CHECK f", "BR.CHECK f REQUESTS x", "BR.CHECK f"}, []string{"check check"}},
	} {
		r.batches = nil
		answers := u.ask(tt.commands...)
		if !slices.Equal(r.batches, tt.batches) {
			t.Errorf("%q is decided as %q, want %q", tt.commands, r.batches, tt.batches)
		}
		for i, a := range answers {
			name := strings.Fields(tt.commands[i])[0]
			prefix := map[string]string{"BR.CHECK": "[outcome", "BR.RESERVE": "[outcome", "BR.SETTLE": "[status", "BR.LIMITS": "[tier", "PING": "+PONG"}[name]
			if strings.HasSuffix(tt.commands[i], " x") {
				prefix = "-ERR requests: "
			}
			if !strings.HasPrefix(a, prefix) {
				t.Errorf("answer %d of %q = %s", i, tt.commands, a)
			}
		}
		if tt.commands[0] == "BR.CHECK d REQUESTS 3" && !strings.Contains(answers[1], "remaining :7 ") {
			t.Errorf("limits after a check of 3 in the same pipeline: %s", answers[1])
		}
	}
}

// TestLongPipeline: more than a batch has is decided in several, and every call is charged.
func TestLongPipeline(t *testing.T) {
	var r *recorder
	n := newNode(t, func(o *Options) { r = &recorder{Decider: o.Decider}; o.Decider = r })
	u := n.dial()
	const calls = 5000
	go func() { // answers are read meanwhile
		_, _ = io.WriteString(u.Conn, strings.Repeat(wire("BR.CHECK a REQUESTS 0 INPUT_TOKENS 1"), calls))
	}()
	for i := range calls {
		if got := u.receive(); !strings.Contains(got, fmt.Sprintf("remaining :%d reset_ms", 10_000-i-1)) {
			t.Fatalf("answer %d = %s", i, got)
		}
	}
	sum := 0
	for _, b := range r.batches {
		size := len(strings.Fields(b))
		if sum += size; size > server.MaxItems {
			t.Errorf("a batch of %d", size)
		}
	}
	if sum != calls || len(r.batches) > calls/8 {
		t.Errorf("%d calls in %d batches", sum, len(r.batches))
	}
}

// waiter is a decider whose calls wait until their context is done, or the test says so.
type waiter struct {
	server.Decider
	began, ended chan struct{}
}

func (w *waiter) Do(ctx context.Context, calls []call.Call) *server.Results {
	if q := calls[0].Check(); q == nil || q.GetMaxWait() == nil {
		return w.Decider.Do(ctx, calls)
	}
	done := ctx.Done()
	w.began <- struct{}{}
	select {
	case <-done:
		w.ended <- struct{}{}
	case <-w.ended:
	}
	return w.Decider.Do(context.WithoutCancel(ctx), calls)
}

// TestWaitingCalls: a call that waits does not delay other connections, what its client sends
// meanwhile is kept, and a client that goes ends it.
func TestWaitingCalls(t *testing.T) {
	var w *waiter
	n := newNode(t, func(o *Options) {
		w = &waiter{o.Decider, make(chan struct{}), make(chan struct{})}
		o.Decider = w
	})
	for range 20 {
		waits, other := n.dial(), n.dial()
		waits.send(wire("BR.CHECK a MAX_WAIT_SECONDS 5"))
		<-w.began
		other.want("PING", "+PONG")
		waits.send(wire("ECHO 1", "ECHO 2"))
		time.Sleep(watchAfter) // in some rounds they are read ahead, in others not: both must do
		w.ended <- struct{}{}
		for i, prefix := range []string{"[outcome ", "1", "2"} {
			if got := waits.receive(); !strings.HasPrefix(got, prefix) {
				t.Fatalf("answer %d = %s, want %s", i, got, prefix)
			}
		}
		waits.want("PING", "+PONG")
		waits.send(wire("BR.CHECK a MAX_WAIT_SECONDS 5"))
		<-w.began
		_ = waits.Close()
		select {
		case <-w.ended:
		case <-time.After(testWait):
			t.Fatal("the call of a client that has gone still waits")
		}
	}
}

// TestShutdownFinishes: what was read is answered, an idle connection is closed, and so is one
// with a part of a command.
func TestShutdownFinishes(t *testing.T) {
	var w *waiter
	n := newNode(t, func(o *Options) {
		w = &waiter{o.Decider, make(chan struct{}), make(chan struct{})}
		o.Decider = w
	})
	idle, partial, busy := n.dial(), n.dial(), n.dial()
	idle.want("PING", "+PONG")
	partial.send("*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI")
	if got := partial.receive(); got != "+PONG" {
		t.Fatalf("PING = %s", got)
	}
	busy.send(wire("BR.CHECK a MAX_WAIT_SECONDS 5", "PING"))
	<-w.began
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), testWait)
		defer cancel()
		ended <- n.server.Shutdown(ctx)
	}()
	for _, u := range []*user{idle, partial} {
		if _, err := u.r.ReadByte(); err == nil {
			t.Error("a connection without a call goes on")
		}
	}
	w.ended <- struct{}{}
	if got := busy.receive(); !strings.HasPrefix(got, "[outcome ") {
		t.Errorf("answer during shutdown = %s", got)
	}
	if got := busy.receive(); got != "+PONG" {
		t.Errorf("the rest of the pipeline = %s", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Shutdown() = %v", err)
	}
}

// TestFieldsAreThoseOfTheMessages: every field of a request can be given, with the names of the
// HTTP API, and no message has more optional numbers than there is room for.
func TestFieldsAreThoseOfTheMessages(t *testing.T) {
	names := func(m protoreflect.ProtoMessage) (list []string) {
		for i := range m.ProtoReflect().Descriptor().Fields().Len() {
			switch name := string(m.ProtoReflect().Descriptor().Fields().Get(i).Name()); name {
			case "reservation": // for the client library
			case "max_wait":
				list = append(list, "max_wait_seconds")
			default:
				list = append(list, name)
			}
		}
		slices.Sort(list)
		return list
	}
	compare(t, "check", checkFields, names(&pb.CheckRequest{}))
	compare(t, "reserve", reserveFields, names(&pb.ReserveRequest{}))
	compare(t, "settle", settleFields, names(&pb.SettleRequest{}))
	compare(t, "cancel", cancelFields, names(&pb.CancelRequest{}))
	compare(t, "limits", limitsFields, names(&pb.PeekRequest{}))
}

func compare[M any](t *testing.T, what string, have []field[M], want []string) {
	t.Helper()
	var names []string
	optional, flags := 0, 0
	for _, f := range have {
		names = append(names, f.name)
		if f.optional != nil {
			optional++
		}
		if f.optionalFlag != nil {
			flags++
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("fields of %s are %q, want %q", what, names, want)
	}
	if optional > maxOptional || flags > len(memory{}.flags) {
		t.Errorf("%s has %d optional numbers and %d optional flags: there is no room for them", what, optional, flags)
	}
}

// TestNames: the tables of names are those of the enums.
func TestNames(t *testing.T) {
	for _, tt := range []struct {
		names  []string
		values map[int32]string
		prefix string
	}{
		{outcomes[:], pb.Outcome_name, "OUTCOME_"}, {reasons[:], pb.Reason_name, "REASON_"}, {statuses[:], pb.ReservationStatus_name, "RESERVATION_STATUS_"}, {routes[:], pb.Route_name, "ROUTE_"},
	} {
		if len(tt.names) != len(tt.values) {
			t.Errorf("%d names %q of %d values", len(tt.names), tt.names, len(tt.values))
		}
		for value, name := range tt.values {
			want := strings.ToLower(strings.TrimPrefix(name, tt.prefix))
			if got := nameOf(tt.names, value); got != want && value != 0 {
				t.Errorf("%s is named %q, want %q", name, got, want)
			}
		}
	}
	if got := nameOf(outcomes[:], 99); got != "unknown" {
		t.Errorf("a later value is named %q", got)
	}
}

// TestOverload: refused calls are told to try again, what ends a reservation is not refused.
func TestOverload(t *testing.T) {
	a := server.NewAdmission(nil)
	n := newNode(t, func(o *Options) { o.Admission = a })
	u := n.dial()
	u.do("BR.RESERVE a REQUEST_ID 1")
	a.SetBound(1)
	a.Refuse(1_000_000)
	answers := u.ask("BR.CHECK a", "BR.SETTLE a 1", "BR.LIMITS a")
	for i, prefix := range []string{"-TRYAGAIN overloaded: ", "[status settled", "-TRYAGAIN overloaded: "} {
		if !strings.HasPrefix(answers[i], prefix) {
			t.Errorf("answer %d under overload = %s, want %s", i, answers[i], prefix)
		}
	}
	if n := a.Refused(); n != 2 {
		t.Errorf("%d calls are counted as refused, want 2", n)
	}
	if calls := a.Calls(); calls != 0 {
		t.Errorf("%d calls are in progress", calls)
	}
	a.Refuse(0)
	if got := u.do("BR.CHECK a"); !strings.HasPrefix(got, "[outcome ") {
		t.Errorf("after the overload = %s", got)
	}
}
