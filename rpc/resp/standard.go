// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/redcon"

	"github.com/bucketring/bucketring/internal/text"
)

// The commands that clients of Redis send when they connect.

// likeRedis is the version of Redis whose form the answers have, for clients that ask.
const likeRedis = "7.4.0"

func (c *conn) bulk(s string) { c.out = redcon.AppendBulkString(c.out, s) }

// null answers with nothing.
func (c *conn) null() {
	if c.resp3 {
		c.out = append(c.out, "_\r\n"...)
		return
	}
	c.out = redcon.AppendNull(c.out)
}

func (c *conn) ping(args []string) {
	if len(args) == 0 {
		c.out = redcon.AppendString(c.out, "PONG")
		return
	}
	c.bulk(args[0])
}

func (c *conn) echo(args []string) { c.bulk(args[0]) }

func (c *conn) hello(args []string) {
	resp3, name, named := c.resp3, "", false
	if len(args) > 0 {
		switch args[0] {
		case "2":
			resp3 = false
		case "3":
			resp3 = true
		default:
			c.problem(&problem{code: codeNoProto, message: "unsupported protocol version"})
			return
		}
		args = args[1:]
	}
	for len(args) > 0 {
		switch option := strings.ToUpper(args[0]); {
		case option == "AUTH" && len(args) >= 3:
			if p := c.loginByToken(args[1], args[2]); p != nil {
				c.problem(p)
				return
			}
			args = args[3:]
		case option == "SETNAME" && len(args) >= 2:
			if p := checkName(args[1]); p != nil {
				c.problem(p)
				return
			}
			name, named = args[1], true
			args = args[2:]
		default:
			c.problem(failed("Syntax error in HELLO option " + text.Quote(args[0])))
			return
		}
	}
	if p := c.authorized(); p != nil {
		c.problem(p)
		return
	}
	c.resp3 = resp3
	if named {
		c.name = name
	}
	o := begin(c.out, resp3)
	o.text("server", "bucketring")
	o.text("version", c.server.options.Version)
	proto := int64(2)
	if resp3 {
		proto = 3
	}
	o.number("proto", proto)
	o.number("id", c.id)
	o.text("mode", "standalone")
	o.text("role", "master")
	o.name("modules")
	o.b = redcon.AppendArray(o.b, 0)
	c.out = o.end()
}

func (c *conn) auth(args []string) {
	user, token := "", args[0]
	if len(args) == 2 {
		user, token = args[0], args[1]
	}
	if p := c.loginByToken(user, token); p != nil {
		c.problem(p)
		return
	}
	c.ok()
}

func (c *conn) selectDB(args []string) {
	if args[0] != "0" {
		c.problem(failed("DB index is out of range: there is only 0, got " + text.Quote(args[0])))
		return
	}
	c.ok()
}

// maxName bounds the name of a connection.
const maxName = 256

func checkName(name string) *problem {
	if len(name) > maxName {
		return failed(fmt.Sprintf("the name of a connection must have at most %d bytes, got %s", maxName, text.Quote(name)))
	}
	for i := range len(name) {
		if name[i] < '!' || name[i] > '~' {
			return failed("Client names cannot contain spaces, newlines or special characters")
		}
	}
	return nil
}

func (c *conn) client(args []string) {
	n := len(args) - 1
	switch sub := strings.ToUpper(args[0]); {
	case sub == "SETNAME" && n == 1:
		if p := checkName(args[1]); p != nil {
			c.problem(p)
			return
		}
		c.name = args[1]
		c.ok()
	case sub == "GETNAME" && n == 0:
		if c.name == "" {
			c.null()
			return
		}
		c.bulk(c.name)
	case sub == "SETINFO" && n == 2, sub == "NO-EVICT" && n == 1, sub == "NO-TOUCH" && n == 1:
		c.ok()
	case sub == "ID" && n == 0:
		c.out = redcon.AppendInt(c.out, c.id)
	case sub == "LIST", sub == "INFO" && n == 0:
		c.bulk(c.describeClient())
	default:
		c.problem(failed("unknown subcommand or wrong number of arguments for '" + shown(args[0]) + "'. Known are SETNAME, GETNAME, SETINFO, ID, LIST and INFO."))
	}
}

// describeClient describes this connection, in the form of CLIENT LIST. Others are not for a
// caller to see.
func (c *conn) describeClient() string {
	proto := 2
	if c.resp3 {
		proto = 3
	}
	age := int64(time.Since(c.began) / time.Second)
	return fmt.Sprintf("id=%d addr=%s laddr=%s name=%s age=%d idle=0 flags=N db=0 cmd=client user=%s resp=%d\n",
		c.id, c.nc.RemoteAddr(), c.nc.LocalAddr(), c.name, age, defaultUser, proto)
}

func (c *conn) reset([]string) {
	c.resp3, c.name = false, ""
	c.login.close()
	c.loginByCertificate()
	c.out = redcon.AppendString(c.out, "RESET")
}

func (c *conn) quit([]string) {
	c.ok()
	c.closing = true
}

func (c *conn) command(args []string) {
	sub, commands := "", c.server.commands
	if len(args) > 0 {
		sub = strings.ToUpper(args[0])
	}
	switch {
	case sub == "":
		c.out = redcon.AppendArray(c.out, len(commands))
		for i := range commands {
			c.out = commands[i].appendInfo(c.out)
		}
	case sub == "COUNT" && len(args) == 1:
		c.out = redcon.AppendInt(c.out, int64(len(commands)))
	case sub == "LIST" && len(args) == 1:
		c.out = redcon.AppendArray(c.out, len(commands))
		for i := range commands {
			c.bulk(strings.ToLower(commands[i].name))
		}
	case sub == "INFO":
		named := args[1:]
		c.out = redcon.AppendArray(c.out, len(named))
		for _, name := range named {
			if found := c.server.commandNamed(name); found != nil {
				c.out = found.appendInfo(c.out)
			} else if c.resp3 {
				c.null()
			} else {
				c.out = append(c.out, "*-1\r\n"...)
			}
		}
	case sub == "DOCS":
		c.commandDocs(args[1:])
	default:
		c.problem(failed("unknown subcommand or wrong number of arguments for '" + shown(args[0]) + "'. Known are COUNT, DOCS, INFO and LIST."))
	}
}

// commandDocs describes the named commands, or all. Unknown ones are left out.
func (c *conn) commandDocs(named []string) {
	var described []*command
	commands := c.server.commands
	for i := range commands {
		if len(named) == 0 {
			described = append(described, &commands[i])
		}
	}
	for _, name := range named[:min(len(named), len(commands))] {
		if found := c.server.commandNamed(name); found != nil {
			described = append(described, found)
		}
	}
	c.out = appendMap(c.out, c.resp3, len(described))
	for _, one := range described {
		c.bulk(strings.ToLower(one.name))
		o := begin(c.out, c.resp3)
		o.text("summary", one.summary)
		o.text("since", "1.0.0")
		o.text("group", one.group)
		c.out = o.end()
	}
}

// appendInfo appends what COMMAND says of a command: name, arity, flags, the places of keys.
func (one *command) appendInfo(b []byte) []byte {
	arity, key := one.least+1, int64(0)
	if one.most != one.least {
		arity = -arity
	}
	if one.keyed {
		key = 1
	}
	b = redcon.AppendArray(b, 6)
	b = redcon.AppendBulkString(b, strings.ToLower(one.name))
	b = redcon.AppendInt(b, int64(arity))
	b = redcon.AppendArray(b, 1)
	b = redcon.AppendString(b, "fast")
	for range 3 {
		b = redcon.AppendInt(b, key)
	}
	return b
}

func (c *conn) info([]string) {
	s := c.server
	var b strings.Builder
	fmt.Fprintf(&b, "# Server\r\nredis_version:%s\r\nredis_mode:standalone\r\nbucketring_version:%s\r\nos:%s %s\r\narch_bits:%d\r\nprocess_id:%d\r\nuptime_in_seconds:%d\r\n",
		likeRedis, s.options.Version, runtime.GOOS, runtime.GOARCH, strconv.IntSize, os.Getpid(), int64(time.Since(s.started)/time.Second))
	fmt.Fprintf(&b, "\r\n# Clients\r\nconnected_clients:%d\r\n", s.connections())
	b.WriteString("\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n# Keyspace\r\n")
	c.bulk(b.String())
}

// settings are what redis-benchmark asks for before it begins.
var settings = map[string]string{"save": "", "appendonly": "no"}

func (c *conn) config(args []string) {
	if !strings.EqualFold(args[0], "GET") || len(args) < 2 {
		c.problem(failed("unknown subcommand or wrong number of arguments for '" + shown(args[0]) + "'. Known is GET."))
		return
	}
	o := begin(c.out, c.resp3)
	for i, name := range args[1:] {
		name = strings.ToLower(name)
		if value, ok := settings[name]; ok && i < len(settings) {
			o.text(name, value)
		}
	}
	c.out = o.end()
}
