// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/bucketring/bucketring/internal/pgtest"
	"github.com/bucketring/bucketring/limiter"
)

// pg runs several statements, not as one transaction.
type pg struct{ *pgx.Conn }

func (c pg) exec(sql string) error {
	_, err := c.PgConn().Exec(context.Background(), sql).ReadAll()
	return err
}

// TestErrorsSayWhatToDo, and none has the password.
func TestErrorsSayWhatToDo(t *testing.T) {
	server := pgtest.Shared(t)
	empty := server.Database(t)
	full := tablesWith(t, small)
	full.Exec(t, "CREATE ROLE stranger LOGIN PASSWORD 'its-own-pw'")
	old := tablesWith(t, "UPDATE bucketring_state SET version = 2")
	addr := server.Addr()
	for name, test := range map[string]struct{ url, want string }{
		"no tables":      {empty.URL, "bucketring policy sql | psql"},
		"other tables":   {old.URL, "the tables have version 2, and this program needs 1"},
		"no right":       {strings.Replace(full.URL, "postgres:"+pgtest.Password, "stranger:its-own-pw", 1), "GRANT SELECT"},
		"wrong password": {strings.Replace(full.URL, pgtest.Password, "wrong-pw", 1), "PGPASSWORD"},
		"no database":    {"postgres://postgres:" + pgtest.Password + "@" + addr + "/absent", `database "absent" does not exist`},
		"no server":      {"postgres://u:" + pgtest.Password + "@127.0.0.1:1/db", "127.0.0.1:1"},
		"not encrypted":  {"postgres://u:" + pgtest.Password + "@db.example.org/db", "sslmode=verify-full"},
		"preferred only": {"postgres://u:" + pgtest.Password + "@db.example.org/db?sslmode=prefer", "sslmode=verify-full"},
		"bad port":       {"postgres://u:" + pgtest.Password + "@localhost:99999999/db", "the URL cannot be used"},
		"bad URL":        {"postgres://u:" + pgtest.Password + "@[::1/db", "the URL cannot be used"},
		"no CA":          {"postgres://u:" + pgtest.Password + "@db.example.org/db?sslmode=verify-full&sslrootcert=/absent.pem", "/absent.pem"},
	} {
		f, err := New(Options{URL: test.url, Catalog: limiter.NewCatalog()})
		if err == nil {
			_, err = f.Load(t.Context(), false)
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
			continue
		}
		for _, secret := range []string{pgtest.Password, "its-own-pw", "wrong-pw"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error has a password: %v", name, err)
			}
		}
	}
}

// TestName: the name of a source has no user, password or parameter.
func TestName(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://u:secret@127.0.0.1:5433/limits?application_name=x":        "postgres://127.0.0.1:5433/limits",
		"postgresql://u:secret@db.example.org/limits?sslmode=require":         "postgres://db.example.org:5432/limits",
		"postgres://u:secret@127.0.0.1:1,localhost:2/limits?sslmode=prefer":   "postgres://127.0.0.1:1,localhost:2/limits",
		"postgres:///limits?host=/run/postgresql&user=u&password=also-secret": "postgres:///limits?host=/run/postgresql",
	} {
		f, err := New(Options{URL: url, Catalog: limiter.NewCatalog()})
		if err != nil {
			t.Errorf("%s: %v", url, err)
		} else if f.Name() != want {
			t.Errorf("Name() = %s, want %s", f.Name(), want)
		}
	}
}

// TestPasswordFromEnvironment: a URL needs no password.
func TestPasswordFromEnvironment(t *testing.T) {
	d := tablesWith(t, small)
	t.Setenv("PGPASSWORD", pgtest.Password)
	d.URL = strings.Replace(d.URL, ":"+pgtest.Password, "", 1)
	want(t, load(t, newFeed(t, d)), "acme/alice", "gold 50000")
}

// TestReaderNeedsSelectOnly: a user that may only read the tables can follow changes.
func TestReaderNeedsSelectOnly(t *testing.T) {
	d := tablesWith(t, small)
	d.Exec(t, "CREATE ROLE reader LOGIN PASSWORD 'reader-pw'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; CREATE ROLE writer LOGIN PASSWORD 'writer-pw'; GRANT SELECT, UPDATE ON bucketring_limits TO writer")
	reader, writer := *d, *d
	reader.URL = strings.Replace(d.URL, "postgres:"+pgtest.Password, "reader:reader-pw", 1)
	writer.URL = strings.Replace(d.URL, "postgres:"+pgtest.Password, "writer:writer-pw", 1)
	f := newFeed(t, &reader)
	load(t, f)
	f.Close() // a new connection to the same server
	writer.Exec(t, "UPDATE bucketring_limits SET amount = 5 WHERE tier = 'gold'")
	want(t, load(t, f), "acme/alice", "gold 5")
	if f.full != 1 {
		t.Errorf("all rows were read %d times, want once: the lineage is %q", f.full, f.last.lineage)
	}
}
