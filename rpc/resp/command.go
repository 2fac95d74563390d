// SPDX-License-Identifier: Apache-2.0

package resp

import "strings"

// command is a command of the server.
type command struct {
	name    string // in capitals
	summary string
	group   string
	// least and most are the numbers of arguments after the name. most is -1 if there is no
	// bound.
	least, most int
	keyed       bool // the first argument is a key

	// One of these is set. message makes a call, which is decided with those of the same
	// pipeline; isNew says that it may be refused under overload. run answers at once.
	message message
	isNew   bool
	run     func(c *conn, args []string)
	// open says that no credentials are needed.
	open bool
}

// Groups of commands, for COMMAND DOCS.
const (
	groupLimits     = "bucketring"
	groupConnection = "connection"
	groupServer     = "server"
)

// allCommands returns all commands, those first that are sent most.
func allCommands() []command {
	return []command{
		{name: "BR.CHECK", summary: "charges a known cost at once and for good", group: groupLimits, least: 1, most: -1, keyed: true, message: check, isNew: true},
		{name: "BR.RESERVE", summary: "holds the estimated cost of a call until it is settled", group: groupLimits, least: 1, most: -1, keyed: true, message: reserve, isNew: true},
		{name: "BR.SETTLE", summary: "trues a reservation up with its real usage", group: groupLimits, least: 2, most: -1, keyed: true, message: settle},
		{name: "BR.CANCEL", summary: "gives back everything that a reservation holds", group: groupLimits, least: 2, most: -1, keyed: true, message: cancel},
		{name: "BR.LIMITS", summary: "shows the state of all limits of a key", group: groupLimits, least: 1, most: -1, keyed: true, message: limits, isNew: true},
		{name: "CL.THROTTLE", summary: "takes tokens from a bucket whose size and rate come with the call, as redis-cell does", group: groupLimits, least: 4, most: 5, keyed: true, message: throttle, isNew: true},

		{name: "PING", summary: "answers with PONG or its argument", group: groupConnection, most: 1, run: (*conn).ping},
		{name: "ECHO", summary: "answers with its argument", group: groupConnection, least: 1, most: 1, run: (*conn).echo},
		{name: "HELLO", summary: "chooses the version of the protocol, and may authenticate", group: groupConnection, most: -1, run: (*conn).hello, open: true},
		{name: "AUTH", summary: "authenticates by a token", group: groupConnection, least: 1, most: 2, run: (*conn).auth, open: true},
		{name: "SELECT", summary: "chooses database 0, the only one", group: groupConnection, least: 1, most: 1, run: (*conn).selectDB},
		{name: "CLIENT", summary: "names the connection", group: groupConnection, least: 1, most: -1, run: (*conn).client},
		{name: "RESET", summary: "makes the connection as it was when it began", group: groupConnection, run: (*conn).reset, open: true},
		{name: "QUIT", summary: "ends the connection", group: groupConnection, most: -1, run: (*conn).quit, open: true},
		{name: "COMMAND", summary: "lists the commands", group: groupServer, most: -1, run: (*conn).command},
		{name: "INFO", summary: "describes the server", group: groupServer, most: -1, run: (*conn).info},
		{name: "CONFIG", summary: "answers what benchmarks ask", group: groupServer, least: 1, most: -1, run: (*conn).config},
	}
}

// commandNamed returns the command with a name, in any case, or nil.
func (s *Server) commandNamed(name string) *command {
	for i := range s.commands {
		if c := &s.commands[i]; len(c.name) == len(name) && strings.EqualFold(c.name, name) {
			return c
		}
	}
	return nil
}

// run runs a command, or adds it to the batch.
func (c *conn) run(args []string) {
	command := c.server.commandNamed(args[0])
	var p *problem
	switch n := len(args) - 1; {
	case command == nil && isHTTP(args[0]):
		c.decide()
		c.reject(protocolError("this address speaks the Redis protocol, not HTTP"))
		return
	case command == nil:
		p = c.server.unknownCommand(args)
	case n < command.least || command.most >= 0 && n > command.most:
		p = wrongArguments(strings.ToLower(command.name))
	case command.message != nil:
		c.add(command, args[1:])
		return
	case !command.open:
		p = c.authorized()
	}
	c.decide()
	if p != nil {
		c.problem(p)
		return
	}
	command.run(c, args[1:])
}

// isHTTP reports whether a line begins a request of HTTP, such as a browser would send for a
// page that guesses this address. Its body may have commands.
func isHTTP(word string) bool {
	return strings.EqualFold(word, "POST") || strings.EqualFold(word, "Host:")
}
