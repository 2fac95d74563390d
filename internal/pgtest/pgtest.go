// SPDX-License-Identifier: Apache-2.0

//go:build unix

// Package pgtest runs a PostgreSQL server for tests, from the programs of Debian's package
// postgresql or in the PATH.
package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

// Password is that of the user postgres of every server.
const Password = "not-a-secret-of-anyone"

// Server is a server of its own, with its files in a temporary directory.
type Server struct {
	bin, dir, port string
	attr           *syscall.SysProcAttr // runs it as a user without privileges
	process        *exec.Cmd            // nil: stopped
	output         bytes.Buffer
	databases      int
}

// Start runs a server until the test ends. Without PostgreSQL the test is skipped, but in
// the CI it fails.
func Start(t testing.TB) *Server {
	t.Helper()
	s := start(t)
	t.Cleanup(s.end)
	return s
}

func start(t testing.TB) *Server {
	t.Helper()
	bin := find()
	if bin == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("initdb is missing: install Debian's package postgresql")
		}
		t.Skip("needs PostgreSQL: install Debian's package postgresql")
	}
	port, err := freeport.Pick()
	check(t, err)
	dir, err := os.MkdirTemp("", "pg") //nolint:usetesting // a socket has a short path
	check(t, err)
	s := &Server{bin: bin, dir: dir, port: strconv.Itoa(port), attr: &syscall.SysProcAttr{Setpgid: true}}
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		s.attr.Credential = unprivileged(t)
		check(t, os.Chown(dir, int(s.attr.Credential.Uid), int(s.attr.Credential.Gid)))
	}
	password := filepath.Join(dir, "password")
	check(t, os.WriteFile(password, []byte(Password), 0o644))
	initdb := s.command("initdb", "-D", s.data(), "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--locale", "C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.Run(t)
	return s
}

func (s *Server) end() {
	s.Kill()
	_ = os.RemoveAll(s.dir) // what is left is in the directory for temporary files
}

// shared is the server of [Shared].
var shared *Server

// Shared returns a server for all tests of a package, whose TestMain calls [End]. It must
// not be used concurrently.
func Shared(t testing.TB) *Server {
	t.Helper()
	if shared == nil {
		shared = start(t)
	}
	return shared
}

// End ends the server of [Shared].
func End() {
	if shared != nil {
		shared.end()
	}
}

// find returns the directory of the newest version that is installed.
func find() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path)
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return ""
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1])
}

func unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	check(t, err)
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	check(t, err)
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	check(t, err)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(s.bin, name), args...)
	c.SysProcAttr, c.Dir = s.attr, s.dir
	c.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	return c
}

// Run starts the server again after Kill, and waits until it answers.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	s.process = s.command("postgres", "-D", s.data(), "-p", s.port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+s.dir,
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=64MB", "-c", "max_connections=100")
	s.output.Reset()
	s.process.Stdout, s.process.Stderr = &s.output, &s.output
	check(t, s.process.Start())
	waittest.Until(t, "PostgreSQL", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			err = c.Close(ctx)
		}
		return err == nil
	})
}

// Kill ends the server like a crash: every connection is cut.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGQUIT) // an immediate shutdown
	_ = s.process.Wait()                          // its status says that it was a crash
	s.process = nil
}

// URL returns the URL of a database, with the password.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%s/%s", Password, s.port, database)
}

// SocketURL returns the URL of a database by the server's Unix socket, which processes in
// other network namespaces reach, too.
func (s *Server) SocketURL(database string) string {
	return fmt.Sprintf("postgres://postgres:%s@/%s?host=%s&port=%s", Password, database, s.dir, s.port)
}

// Addr returns the address of the server.
func (s *Server) Addr() string { return "127.0.0.1:" + s.port }

// Database makes a database and runs statements in it.
func (s *Server) Database(t testing.TB, sql ...string) *Database {
	t.Helper()
	s.databases++
	name := "db" + strconv.Itoa(s.databases)
	d := &Database{URL: s.URL(name), SocketURL: s.SocketURL(name)}
	admin := &Database{URL: s.URL("postgres")}
	admin.Exec(t, "CREATE DATABASE "+name)
	for _, q := range sql {
		d.Exec(t, q)
	}
	return d
}

// Database is a database of a server.
type Database struct {
	URL       string
	SocketURL string // see Server.SocketURL
}

// Connect returns a connection that the test ends.
func (d *Database) Connect(t testing.TB) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(context.Background(), d.URL)
	check(t, err)
	t.Cleanup(func() { _ = c.Close(context.Background()) }) // the server may be gone
	return c
}

// Exec runs statements, separated by semicolons, as one transaction.
func (d *Database) Exec(t testing.TB, sql string) {
	t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, d.URL)
	check(t, err)
	_, err = c.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
	check(t, c.Close(ctx))
}
