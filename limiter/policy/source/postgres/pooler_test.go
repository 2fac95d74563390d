// SPDX-License-Identifier: Apache-2.0

//go:build unix

package postgres

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/pgtest"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
)

// TestPoolerInTransactionMode: behind pgbouncer in transaction mode there are no
// notifications, and a change is found by the poll.
func TestPoolerInTransactionMode(t *testing.T) {
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("pgbouncer is missing: install Debian's package pgbouncer")
		}
		t.Skip("needs pgbouncer: install Debian's package pgbouncer")
	}
	server := pgtest.Start(t)
	d := server.Database(t, Schema(), small)
	port, err := freeport.Pick()
	check(t, err)
	dir := t.TempDir()
	host, to, _ := net.SplitHostPort(server.Addr())
	config := filepath.Join(dir, "pgbouncer.ini")
	check(t, os.WriteFile(config, []byte(fmt.Sprintf(`[databases]
db1 = host=%s port=%s user=postgres password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
`, host, to, pgtest.Password, port)), 0o644))
	check(t, os.Chmod(dir, 0o755))
	check(t, os.Chmod(filepath.Dir(dir), 0o755))
	pooler := exec.Command(bin, config)
	if os.Geteuid() == 0 { // pgbouncer refuses to run as root
		pooler.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	check(t, pooler.Start())
	t.Cleanup(func() { _ = pooler.Process.Kill(); _ = pooler.Wait() })
	direct := *d
	d.URL = strings.Replace(d.URL, server.Addr(), "127.0.0.1:"+strconv.Itoa(port), 1)

	const interval = 2 * time.Second
	f, err := New(Options{URL: d.URL, Catalog: limiter.NewCatalog(), Interval: interval})
	check(t, err)
	defer f.Close()
	waittest.Until(t, "a policy by pgbouncer", func() bool {
		_, err := f.Load(t.Context(), false)
		return err == nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	f.Wait(ctx)
	load(t, f)
	second := newFeed(t, d) // of another node, by the same connections of the pooler
	load(t, second)
	busy := pg{d.Connect(t)}
	for i := range 4 {
		direct.Exec(t, fmt.Sprintf("UPDATE bucketring_limits SET amount = %d WHERE tier = 'gold'", 10+i))
		// Another client has the connection that the feed has used.
		check(t, busy.exec("BEGIN; SELECT 1"))
		began := time.Now()
		f.Wait(ctx)
		if took := time.Since(began); took < interval*8/10 {
			t.Errorf("woken after %v without a notification, want the poll after %v", took, interval)
		}
		for _, f := range []*Feed{f, second} {
			want(t, load(t, f), "acme/alice", fmt.Sprintf("gold %d", 10+i))
		}
		check(t, busy.exec("COMMIT"))
	}
	if f.full != 1 || second.full != 1 {
		t.Errorf("all rows were read %d and %d times, want once", f.full, second.full)
	}
}
