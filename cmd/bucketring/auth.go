// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/internal/yamldoc"
)

func newAuth(s *streams) *cobra.Command {
	cmd := commandGroup(&cobra.Command{
		Use:   "auth",
		Short: "Make tokens, and check who may call",
		Long: `Work with the file of --auth, which lists who may call a node: each caller has a name,
scopes, and token hashes, certificate names or claims of JWTs. No node is needed. A node
reloads the file when it changes and on SIGHUP.`,
		Example: `  bucketring auth token --name gateway --scopes call --out gateway.token >> auth.yaml
  bucketring auth check auth.yaml
  bucketring serve --auth auth.yaml
  bucketring check acme/alice --token-file gateway.token`,
	})
	for _, c := range []*cobra.Command{newAuthToken(s), newAuthCheck(s)} {
		c.Flags().SortFlags = false
		cmd.AddCommand(c)
	}
	return cmd
}

func newAuthToken(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a random token, and its entry for the file of --auth",
		Long: `Make a random token of 256 bits. The token is for the caller, and printed once; its
SHA-256 hash is for the file of --auth, whose readers cannot use it.

With --out, the token goes to a new file that only its owner can read, and the entry is
all that is printed. To replace a token, list the hash of the next one beside that of
the old one, let the caller use the next one, and then remove the old hash.`,
		Example: `  bucketring auth token --name gateway
  bucketring auth token --name team --scopes call --roots "acme,team-*" --out team.token
  bucketring auth token -o json`,
		Args: exactArgs(),
	}
	flags := cmd.Flags()
	name := flags.String("name", "", "name of the caller, for its entry; empty means that only the hash is printed")
	scopes := flags.StringSlice("scopes", []string{"call"}, "scopes of the caller: "+strings.Join(auth.ScopeNames(), ", "))
	withChoices(flags, "scopes", auth.ScopeNames()...)
	roots := flags.StringSlice("roots", nil, "roots that the scope call is for, such as acme,team-*; empty means all")
	out := flags.String("out", "", "write the token to this file, which must not exist")
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *name != "" && !auth.ValidName(*name) {
			return usageError(cmd, fmt.Errorf("--name: must be 1 to 64 letters, digits, dots, dashes or underscores, got %q", *name), "")
		}
		allowed, unknown, near := auth.ParseScopes(*scopes)
		switch {
		case unknown != "" && near != "":
			return usageError(cmd, fmt.Errorf("--scopes: must be of %s, got %q; did you mean %s?", strings.Join(auth.ScopeNames(), ", "), unknown, near), "")
		case unknown != "" || allowed == 0:
			return usageError(cmd, fmt.Errorf("--scopes: must be of %s, got %q", strings.Join(auth.ScopeNames(), ", "), unknown), "")
		case len(*roots) > 0 && allowed&auth.Call == 0:
			return usageError(cmd, errors.New("--roots: restrict the scope call, which --scopes does not have"), "")
		}
		token, hash := auth.NewToken()
		if *out != "" {
			if err := writeSecret(*out, token+"\n"); err != nil {
				return errorWithHint(fmt.Errorf("--out: %w", err), "another file, or remove that one")
			}
			token = ""
		}
		if *output == formatJSON {
			return s.writeJSON(struct {
				Token string `json:"token,omitempty"`
				File  string `json:"file,omitempty"`
				Hash  string `json:"hash"`
			}{token, *out, hash.String()})
		}
		entry := hash.String()
		if *name != "" {
			entry = fmt.Sprintf("- { name: %s, scopes: [%s], tokens: [%q]%s }", *name, strings.Join(*scopes, ", "), hash, rootsText(*roots))
		}
		if token == "" {
			s.printf("%s\n", entry)
			return nil
		}
		s.printf("token  %s\nentry  %s\n", token, entry)
		return nil
	}
	return cmd
}

func rootsText(roots []string) string {
	if len(roots) == 0 {
		return ""
	}
	quoted := make([]string, len(roots))
	for i, r := range roots {
		quoted[i] = fmt.Sprintf("%q", r)
	}
	return ", roots: [" + strings.Join(quoted, ", ") + "]"
}

// writeSecret writes a new file that only its owner can read.
func writeSecret(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func newAuthCheck(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a file of --auth",
		Long: `Report all problems of a file of --auth, or of a directory with such files, with their
positions: the same ones as a node. Keys for JWTs that the file names are read, too.
Exits with 1 if there are problems.`,
		Example: `  bucketring auth check auth.yaml
  bucketring auth check /etc/bucketring/auth/`,
		Args: exactArgs("FILE"),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		files, unread := filewatch.Read(args[0])
		callers, err := filewatch.Parse(files, unread, func(files []yamldoc.File) (*auth.Callers, error) { return auth.Parse(files, nil) })
		if err != nil {
			return errorWithHint(err, "")
		}
		s.printf("%s is valid: %d callers\n", args[0], callers.Len())
		return nil
	}
	return cmd
}
