// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// parseURL returns the configuration of connections, and the URL without what must not be
// shown. Whatever the URL leaves out comes from the environment and the files of libpq:
// PGPASSWORD, PGPASSFILE, ~/.pgpass and others.
func parseURL(text string, insecure bool) (*pgx.ConnConfig, string, error) {
	c, err := pgx.ParseConfig(text)
	if err != nil {
		return nil, "", fmt.Errorf("policy: the URL cannot be used: write postgres://user@host:5432/database: %w", hideURL(err))
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "bucketring"
	}
	if !strings.Contains(text, "default_query_exec_mode") {
		// Prepared statements belong to a connection of the server. A pooler in transaction mode
		// gives the same one to several nodes, which would prepare the same names.
		c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	if !insecure {
		for _, to := range append([]*pgconn.FallbackConfig{{Host: c.Host, TLSConfig: c.TLSConfig}}, c.Fallbacks...) {
			if to.TLSConfig == nil && !isLocal(to.Host) {
				return nil, "", fmt.Errorf("policy: the connection to %s may be not encrypted: add sslmode=verify-full to the URL, and sslrootcert=FILE if its CA is your own, or allow it with --insecure", to.Host)
			}
		}
	}
	return c, nameOf(c), nil
}

// hideURL returns the cause of an error of ParseConfig without the URL.
func hideURL(err error) error {
	cause := errors.Unwrap(err)
	var parse *url.Error
	if cause == nil || errors.As(err, &parse) {
		return errors.New("it cannot be parsed")
	}
	return cause
}

func isLocal(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.HasPrefix(host, "/") || host == "localhost" || err == nil && addr.IsLoopback()
}

// nameOf returns a URL with all hosts that are tried, in their order.
func nameOf(c *pgx.ConnConfig) string {
	if strings.HasPrefix(c.Host, "/") {
		return (&url.URL{Scheme: "postgres", Path: "/" + c.Database, RawQuery: "host=" + c.Host}).String()
	}
	return (&url.URL{Scheme: "postgres", Host: strings.Join(serversOf(c), ","), Path: "/" + c.Database}).String()
}

// serversOf returns the hosts and ports that are tried, in their order.
func serversOf(c *pgx.ConnConfig) []string {
	list := []string{net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))}
	for _, f := range c.Fallbacks {
		if to := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port))); !slices.Contains(list, to) {
			list = append(list, to)
		}
	}
	return list
}

// connect opens a connection whose end is noticed in a minute, also if the server is
// silent.
func connect(ctx context.Context, c *pgx.ConnConfig) (*pgx.Conn, error) {
	c = c.Copy()
	dialer := &net.Dialer{Timeout: c.ConnectTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3}}
	c.DialFunc = dialer.DialContext
	return pgx.ConnectConfig(ctx, c)
}

func formatXID(x uint64) string { return strconv.FormatUint(x, 10) }

// errNoTables is the error of a database without the tables.
var errNoTables = errors.New("the database has no tables of a policy: make them with: bucketring policy sql | psql")

// advise adds what to do about an error of the server.
func advise(err error) error {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return err
	}
	switch server.Code {
	case "28P01", "28000":
		return fmt.Errorf("%w: check the user, and the password in PGPASSWORD or ~/.pgpass", err)
	case "42501":
		return fmt.Errorf("%w: allow it with: GRANT SELECT ON ALL TABLES IN SCHEMA public TO the user", err)
	case "42P01":
		return fmt.Errorf("%w: %w", err, errNoTables)
	case "53300":
		return fmt.Errorf("%w: a node needs two connections", err)
	}
	return err
}
