// SPDX-License-Identifier: Apache-2.0

package target

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/redcon"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/rpc/pb"
)

// commands is a server of the protocol of Redis that answers as a node and redis-cell do.
type commands struct {
	password string

	mu   sync.Mutex
	used map[string]int64 // by key
	seen []string         // commands, with their arguments
}

// startCommands serves commands until the test ends, and returns the address.
func startCommands(t *testing.T, c *commands) string {
	t.Helper()
	c.used = map[string]int64{}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := redcon.NewServer(l.Addr().String(), c.handle, nil, nil)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func (c *commands) handle(conn redcon.Conn, cmd redcon.Command) {
	args := make([]string, len(cmd.Args))
	for i, a := range cmd.Args {
		args[i] = string(a)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := strings.ToUpper(args[0])
	switch {
	case name == "AUTH" && args[len(args)-1] == c.password:
		conn.SetContext(true)
		conn.WriteString("OK")
		return
	case name == "HELLO":
		conn.WriteError("ERR unknown command 'HELLO'")
		return
	case c.password != "" && conn.Context() == nil:
		conn.WriteError("NOAUTH Authentication required")
		return
	}
	c.seen = append(c.seen, strings.Join(args, " "))
	switch name {
	case "PING":
		conn.WriteString("PONG")
	case "CL.THROTTLE":
		c.throttle(conn, args)
	case "BR.CHECK", "BR.RESERVE":
		c.decide(conn, args[1], valueOf(args, "REQUEST_ID"))
	case "BR.SETTLE":
		conn.WriteRaw([]byte("*4\r\n$6\r\nstatus\r\n$7\r\nsettled\r\n$5\r\nowner\r\n$6\r\nnode-1\r\n"))
	default:
		conn.WriteError("ERR unknown command '" + args[0] + "'")
	}
}

// throttle admits max_burst and one more.
func (c *commands) throttle(conn redcon.Conn, args []string) {
	if len(args) != 6 {
		conn.WriteError("ERR wrong number of arguments for 'cl.throttle' command")
		return
	}
	var n [4]int64
	for i := range n {
		n[i], _ = strconv.ParseInt(args[i+2], 10, 64)
	}
	limit, quantity := n[0]+1, n[3]
	answer := []int64{0, limit, 0, -1, 60}
	switch {
	case quantity > limit:
		answer[0] = 1
	case c.used[args[1]]+quantity > limit:
		answer[0], answer[3] = 1, 2
	default:
		c.used[args[1]] += quantity
	}
	conn.WriteArray(len(answer))
	for _, v := range answer {
		conn.WriteInt64(v)
	}
}

// decide admits 1,000 calls of a key.
func (c *commands) decide(conn redcon.Conn, key, id string) {
	outcome, reason := "allowed", ""
	switch {
	case key == "busy":
		conn.WriteError("TRYAGAIN overloaded: this node is overloaded")
		return
	case key == "odd":
		conn.WriteArray(1)
		conn.WriteBulkString("outcome")
		return
	case c.used[key] == 1000:
		outcome, reason = "denied", "limit_exceeded"
	default:
		c.used[key]++
	}
	conn.WriteArray(12)
	for _, text := range []string{"outcome", outcome, "reason", reason, "request_id", id, "route", "local"} {
		conn.WriteBulkString(text)
	}
	conn.WriteBulkString("granted_output_tokens")
	conn.WriteInt64(300)
	conn.WriteBulkString("limits")
	conn.WriteArray(1)
	conn.WriteArray(2)
	conn.WriteBulkString("name")
	conn.WriteBulkString("requests")
}

// valueOf returns the value of a field.
func valueOf(args []string, name string) string {
	for i := 2; i+1 < len(args); i += 2 {
		if args[i] == name {
			return args[i+1]
		}
	}
	return ""
}

func TestRESPSendsCommands(t *testing.T) {
	c := &commands{password: "secret"}
	at := startCommands(t, c)
	target := open(t, "resp://:secret@"+at, Options{})
	a := check(t, target, bench.Call{Key: "acme/alice", Tier: "free", ID: "one", Requests: 2, InputTokens: 900, OutputTokens: 100})
	if want := (bench.Answer{Outcome: bench.Allowed, ID: "one", Route: "local", GrantedOutputTokens: 300}); a != want {
		t.Errorf("Check = %+v, want %+v", a, want)
	}
	if _, err := target.Reserve(t.Context(), &bench.Call{Key: "acme/alice", Model: "large", ID: "two", InputTokens: 900, MaxOutputTokens: 300}); err != nil {
		t.Error(err)
	}
	a, err := target.Settle(t.Context(), bench.Usage{Key: "acme/alice", ID: "two", InputTokens: 900, OutputTokens: 20, Final: true})
	if err != nil || a.Owner != "node-1" {
		t.Errorf("Settle = %+v, %v, want node-1", a, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, want := range []string{
		"BR.CHECK acme/alice TIER free REQUEST_ID one REQUESTS 2 INPUT_TOKENS 900 OUTPUT_TOKENS 100",
		"BR.RESERVE acme/alice MODEL large REQUEST_ID two INPUT_TOKENS 900 MAX_OUTPUT_TOKENS 300",
		"BR.SETTLE acme/alice two INPUT_TOKENS 900 OUTPUT_TOKENS 20 FINAL 1",
	} {
		if got := c.seen[len(c.seen)-3+i]; got != want {
			t.Errorf("command %d is %q, want %q", i, got, want)
		}
	}
}

func TestRESPReadsAnswers(t *testing.T) {
	at := startCommands(t, &commands{})
	target := open(t, "resp://"+at, Options{NoIDs: true})
	wantExactly(t, target, bench.Call{Key: "acme"})
	if _, err := target.Check(t.Context(), &bench.Call{Key: "busy"}); fmt.Sprint(err) != bench.ErrOverloaded.Error() {
		t.Errorf("Check of a node that is overloaded = %v, want %v", err, bench.ErrOverloaded)
	}
	if _, err := target.Check(t.Context(), &bench.Call{Key: "odd"}); err == nil || !strings.Contains(err.Error(), "has 1 elements, want names and values") {
		t.Errorf("Check with an odd answer = %v, want an error", err)
	}
}

func TestThrottleIsExact(t *testing.T) {
	at := startCommands(t, &commands{})
	target := open(t, "throttle://"+at, Options{})
	wantExactly(t, target, bench.Call{Key: "acme"})
	if got := check(t, target, bench.Call{Key: "acme", Requests: 1001}); got.Outcome != bench.Denied || got.Reason != "exceeds_capacity" {
		t.Errorf("Check of more than the limit = %+v, want denied for exceeds_capacity", got)
	}
	if _, err := target.Reserve(t.Context(), &bench.Call{}); err != bench.ErrNoReservations { //nolint:errorlint // it is returned as it is
		t.Errorf("Reserve = %v, want %v", err, bench.ErrNoReservations)
	}
	wrong := open(t, "resp://"+at, Options{}).(*respTarget)
	if _, err := throttleAnswer(wrong.client.Do(t.Context(), "BR.CHECK", "acme")); err == nil {
		t.Error("an answer of another command is read, want an error")
	}
}

func TestBatches(t *testing.T) {
	at := startCommands(t, &commands{})
	for _, spec := range []string{"resp://" + at, "throttle://" + at, "echo:"} {
		target := open(t, spec, Options{}).(Batcher)
		calls := make([]bench.Call, 256)
		for i := range calls {
			calls[i] = bench.Call{Key: "acme/alice", ID: strconv.Itoa(i)}
		}
		answers, err := target.CheckBatch(t.Context(), calls)
		if err != nil || len(answers) != len(calls) {
			t.Fatalf("%s: CheckBatch = %d answers, %v, want %d", spec, len(answers), err, len(calls))
		}
		for i, a := range answers {
			if a.Outcome != bench.Allowed {
				t.Fatalf("%s: answer %d = %+v, want allowed", spec, i, a)
			}
		}
	}
	calls := []bench.Call{{Key: "acme/bob"}, {Key: "odd"}}
	if _, err := open(t, "resp://"+at, Options{}).(Batcher).CheckBatch(t.Context(), calls); err == nil || !strings.HasPrefix(err.Error(), "check 2 of 2") {
		t.Errorf("CheckBatch with an odd answer = %v, want that of check 2", err)
	}
}

func TestEchoHasTheSizeOfAnswers(t *testing.T) {
	target := open(t, "echo:", Options{})
	if got := check(t, target, bench.Call{Key: "acme/alice", ID: "one"}); got.Outcome != bench.Allowed {
		t.Errorf("Check = %+v, want allowed", got)
	}
	stub := open(t, "grpc:"+startNodes(t, 1)[0].GRPCAddr(), Options{}).(*grpcTarget).stub
	d, err := stub.Check(t.Context(), &pb.CheckRequest{Key: "user-000001", Tier: "four", InputTokens: 900, OutputTokens: 100, RequestId: echoed.GetRequestId()})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := proto.Size(echoed), proto.Size(d); got < want*8/10 || got > want*12/10 {
		t.Errorf("an echo has %d bytes, want about as many as an answer with four limits: %d\n%v", got, want, d)
	}
	if out, err := (&echoServer{payload: make([]byte, 8)}).echo(wrapperspb.Bytes([]byte{7, 0, 0, 0})); err != nil || len(out.GetValue()) != 7 {
		t.Errorf("echo of 7 bytes = %v, %v", out, err)
	}
	if _, err := (&echoServer{payload: make([]byte, 8)}).echo(wrapperspb.Bytes([]byte{9, 0, 0, 0})); err == nil {
		t.Error("an answer that is too long is sent, want an error")
	}
	if _, err := (&echoServer{}).echo(wrapperspb.Bytes([]byte{9})); err == nil {
		t.Error("a request without a size is answered, want an error")
	}
}
