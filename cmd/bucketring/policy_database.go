// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source/postgres"
)

func newPolicySQL(s *streams) *cobra.Command {
	return &cobra.Command{
		Use:   "sql",
		Short: "Print the tables of a policy in PostgreSQL",
		Long: `Print the SQL that makes the tables of a policy in a database, for --policy
postgres://.... The comments say what each column means. Running it again changes no
rows. Nodes need only SELECT on the tables.`,
		Example: `  bucketring policy sql | psql postgres://admin@db.example.org/limits
  bucketring policy import --to postgres://admin@db.example.org/limits policy.yaml`,
		Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			s.printf("%s", postgres.Schema())
			return nil
		},
	}
}

// maxDiff bounds the changes that an import prints.
const maxDiff = 50

func newPolicyImport(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import --to URL FILE",
		Short: "Write a policy into a database",
		Long: `Make the tables of a database have the policy of a file or directory, in one
transaction, and print what changes. Only rows that differ are written. What the file
does not have is deleted, which needs --yes. Comments are not kept.

The password is best given by PGPASSWORD or ~/.pgpass, because other users of the
machine can see the command line. A connection to another machine must be encrypted,
unless BUCKETRING_INSECURE=true.`,
		Example: `  bucketring policy sql | psql postgres://admin@db.example.org/limits
  bucketring policy import --to postgres://admin@db.example.org/limits policy.yaml
  bucketring policy import --to postgres://admin@db.example.org/limits policy.yaml --yes`,
		Args: exactArgs("FILE"),
	}
	to := cmd.Flags().String("to", "", "database, postgres://user@host:5432/database")
	yes := cmd.Flags().Bool("yes", false, "also delete rows")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *to == "" {
			return usageError(cmd, errors.New("--to: must be a database, such as postgres://user@host:5432/database"), "")
		}
		p, err := s.loadPolicy(args[0])
		if err != nil {
			return err
		}
		return postgres.Import(cmd.Context(), postgres.Options{URL: *to, Insecure: s.insecure()}, p, func(before *policy.Policy, c postgres.Changes) error {
			s.printDiff(before, p)
			s.printf("rows: %d inserted, %d updated, %d deleted\n", c.Inserted, c.Updated, c.Deleted)
			if c.Deleted > 0 && !*yes {
				return errorWithHint(fmt.Errorf("nothing is changed: %d rows would be deleted", c.Deleted), "the same with --yes, to delete them")
			}
			return nil
		})
	}
	return cmd
}

// printDiff prints what is different in a policy. before may be nil.
func (s *streams) printDiff(before, p *policy.Policy) {
	if before == nil {
		s.printf("the database has no valid policy yet\n")
		return
	}
	changes, total := policy.DiffMost(before, p, maxDiff)
	for _, line := range changes {
		s.printf("%s\n", line)
	}
	if more := total - len(changes); more > 0 {
		s.printf("and %d more changes\n", more)
	}
}

func newPolicyExport(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export --from SOURCE",
		Short: "Write a policy from a database into a file",
		Long: `Write the policy of a database, or of any other source of a node, as one policy file
with the same digest. Limits stand in their long form, and defaults are left out. The
environment variables of "bucketring serve" apply to a URL, such as
BUCKETRING_POLICY_TOKEN_FILE.`,
		Example: `  bucketring policy export --from postgres://reader@db.example.org/limits --out policy.yaml
  bucketring policy export --from policy.d`,
		Args: exactArgs(),
	}
	from := cmd.Flags().String("from", "", "postgres://..., https://..., a file or a directory")
	out := cmd.Flags().String("out", "", "file that is written (default: standard output)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *from == "" {
			return usageError(cmd, errors.New("--from: must be a source, such as postgres://user@host:5432/database"), "")
		}
		p, err := s.loadPolicy(*from)
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if err := p.Definition().WriteYAML(&text, nil); err != nil {
			return err
		}
		if err := checkExport(p, text.Bytes()); err != nil {
			return err
		}
		if *out == "" {
			_, err := io.Copy(s.out, &text)
			return err
		}
		if err := writeWhole(*out, text.Bytes()); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		s.notef("%s has version %s\n", *out, p.VersionString())
		return nil
	}
	return cmd
}

// checkExport checks that a text has the policy p.
func checkExport(p *policy.Policy, text []byte) error {
	again, err := policy.Parse("export", text, limiter.NewCatalog())
	if err != nil {
		return fmt.Errorf("the policy cannot be a file: %w", err)
	}
	if again.Digest() != p.Digest() {
		return fmt.Errorf("the file would have digest %s, want %s; please report it", again.Digest(), p.Digest())
	}
	return nil
}

// writeWhole replaces a file at once, or not at all.
func writeWhole(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = cmp.Or(err, f.Chmod(0o644), f.Sync())
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
