// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"context"
	"crypto/tls"
	"net"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/tidwall/redcon"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/rpc/server"
)

const (
	// minBuffer is what a connection begins to read with. Its buffer grows while reads fill it.
	minBuffer = 4 << 10
	// maxBuffer has room for the longest command, and for what follows an incomplete one.
	maxBuffer = 2 * maxCommand
	// maxUnknown bounds an incomplete command of a caller who is not known yet. It has room for
	// the longest token.
	maxUnknown = 17 << 10
	// smallReads is after how many reads that would have fitted minBuffer a larger buffer is
	// given up.
	smallReads = 64
	// flushAt is from how many bytes on answers are sent before all of a pipeline are there.
	flushAt = 64 << 10
	// commandTimeout is how long a command may take to arrive.
	commandTimeout = 30 * time.Second
	// writeTimeout is how long at least, and twice that at most, answers may take to be sent.
	writeTimeout = 15 * time.Second
)

// conn is a connection. It belongs to its goroutine, but for what is said otherwise.
type conn struct {
	server  *Server
	nc      net.Conn
	limited *listenlimit.Conn // nil: there are no limits
	id      int64
	began   time.Time
	ctx     *callContext
	cancel  context.CancelFunc // for Shutdown, too
	watch   watch

	buffer     []byte
	start, end int // of what is in it
	small      int // reads in a row that would have fitted minBuffer
	args       []string
	batch      *batch // nil: there are no calls
	inProgress bool   // the batch is counted as such

	out         []byte
	writeUntil  time.Time // the write deadline
	writeFailed bool
	closing     bool // after what is in out

	resp3 bool
	name  string // by CLIENT SETNAME
	login login
}

func newConn(s *Server, nc net.Conn, id int64) *conn {
	c := &conn{server: s, nc: nc, limited: listenlimit.Of(nc.RemoteAddr()), id: id, began: time.Now(), buffer: make([]byte, minBuffer)}
	ctx, cancel := context.WithCancel(context.Background())
	if c.limited != nil {
		ctx = listenlimit.Context(ctx, c.limited)
	}
	c.cancel = cancel
	c.watch.nc, c.watch.cancel = nc, cancel
	c.ctx = &callContext{ctx, &c.watch}
	return c
}

// wake has a connection that waits for commands look at the state of the server. It is called
// by other goroutines.
func (c *conn) wake() { _ = c.nc.SetReadDeadline(longAgo) }

// serve answers the commands of the connection until it ends.
func (c *conn) serve() {
	defer func() {
		if p := recover(); p != nil {
			c.server.options.Logger.Error("resp connection panicked", "panic", p, "stack", string(debug.Stack()))
		}
		c.endBatch()
		c.cancel()
		c.login.close()
		if c.limited != nil {
			c.limited.SetCalls(0)
		}
		_ = c.nc.Close()
	}()
	c.loginByCertificate()
	for !c.closing && !c.writeFailed {
		if !c.read() {
			return
		}
		c.answer()
		c.flush()
		if c.limited != nil {
			c.limited.SetCalls(0)
		}
	}
}

// tlsState returns the state of a connection with TLS, or nil.
func (c *conn) tlsState() *tls.ConnectionState {
	if secure, ok := c.nc.(*tls.Conn); ok {
		state := secure.ConnectionState()
		return &state
	}
	return nil
}

// read reads what has come of the next commands. It reports whether the connection goes on.
func (c *conn) read() bool {
	c.makeRoom()
	partial := c.end > c.start
	if partial {
		_ = c.nc.SetReadDeadline(time.Now().Add(commandTimeout))
	}
	if c.server.draining.Load() { // after the deadline, which would undo wake
		return false
	}
	n, err := c.watch.read(c.buffer[c.end:])
	if partial && err == nil {
		_ = c.nc.SetReadDeadline(time.Time{})
		if c.server.draining.Load() {
			c.wake()
		}
	}
	c.end += n
	if n <= minBuffer/2 {
		c.small++
	} else {
		c.small = 0
	}
	return err == nil
}

// makeRoom makes room for the next read: for the rest of a command, and for more when the last
// read has filled the buffer.
func (c *conn) makeRoom() {
	full := c.end == len(c.buffer)
	if c.start > 0 {
		c.end = copy(c.buffer, c.buffer[c.start:c.end])
		c.start = 0
	}
	switch {
	case full && len(c.buffer) < maxBuffer:
		grown := make([]byte, 2*len(c.buffer))
		copy(grown, c.buffer[:c.end])
		c.buffer = grown
	case c.end == 0 && len(c.buffer) > minBuffer && c.small > smallReads:
		c.buffer = make([]byte, minBuffer)
	}
}

// answer answers the commands that have come.
func (c *conn) answer() {
	for !c.closing && !c.writeFailed {
		n, args, err := next(c.buffer[c.start:c.end], c.args)
		c.args = args
		if err != nil {
			c.decide()
			c.reject(err)
			break
		}
		if n == 0 {
			if !c.login.known && c.end-c.start > maxUnknown {
				c.decide()
				c.reject(errNotKnown)
			}
			break
		}
		c.start += n
		if len(args) > 0 {
			c.run(args)
		}
	}
	c.decide()
	clear(c.args)
}

// reject answers what is not the protocol, and closes the connection.
func (c *conn) reject(err error) {
	p := failed(err.Error())
	p.why = server.BadMessage
	c.problem(p)
	c.closing = true
}

var errNotKnown = protocolError("a command without credentials must have at most " + strconv.Itoa(maxUnknown) + " bytes: send AUTH first")

// problem answers with an error.
func (c *conn) problem(p *problem) {
	c.server.options.Rejections.Count(interfaceName, p.why)
	c.out = p.append(c.out)
}

func (c *conn) ok() { c.out = redcon.AppendOK(c.out) }

// flush sends the answers.
func (c *conn) flush() {
	if len(c.out) == 0 || c.writeFailed {
		return
	}
	if now := time.Now(); c.writeUntil.Sub(now) < writeTimeout {
		c.writeUntil = now.Add(2 * writeTimeout)
		_ = c.nc.SetWriteDeadline(c.writeUntil) // if it fails, the write does, too
	}
	if _, err := c.nc.Write(c.out); err != nil {
		c.writeFailed = true
	}
	if cap(c.out) > 2*flushAt {
		c.out = nil
	}
	c.out = c.out[:0]
}

// login is who calls.
type login struct {
	session *auth.Session // nil: nobody needs to say who calls, or nobody has
	known   bool
}

func (l *login) close() {
	l.session.Close()
	*l = login{}
}

// loginByCertificate finds out who calls by the client certificate, if there is one.
func (c *conn) loginByCertificate() {
	access := c.server.options.Access
	if !access.Needed() {
		c.login.known = true
		return
	}
	state := c.tlsState()
	if state == nil || len(state.VerifiedChains) == 0 {
		return
	}
	if session, err := access.Connect("", state, c.nc.RemoteAddr()); err == nil {
		c.login = login{session, true}
	}
}

// loginByToken finds out who calls by a token. User is empty, default or the name of the
// caller.
func (c *conn) loginByToken(user, token string) *problem {
	access := c.server.options.Access
	if !access.Needed() { // as the other interfaces, which do not look at a token then
		return nil
	}
	if token == "" {
		return &problem{code: codeWrongPass, message: "the token is empty"}
	}
	session, err := access.Connect(token, nil, c.nc.RemoteAddr())
	if err != nil {
		return refusedProblem(err)
	}
	if caller := session.Grant().Caller(); user != "" && user != defaultUser && user != caller {
		session.Close()
		return &problem{code: codeWrongPass, message: "the token is not of the caller that the user names: use " + defaultUser + " or the name in the file of --auth"}
	}
	c.login.close()
	c.login = login{session, true}
	return nil
}

// defaultUser is the user of clients that are configured with a password only.
const defaultUser = "default"

// authorized returns why the connection may not call now, or nil.
func (c *conn) authorized() *problem {
	if !c.login.known {
		return needsAuth
	}
	if err := c.login.session.Err(); err != nil {
		p := refusedProblem(err)
		p.code = codeNoAuth
		return p
	}
	return nil
}
