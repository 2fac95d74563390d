// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// lastGood keeps the last valid policy of a source in a file, which is a policy file with
// comments that say where and when it is from. It is replaced at once or not at all.
type lastGood struct {
	directory, source string
	catalog           *limiter.Catalog
	written           string // digest of the policy in the file, if this process wrote it
}

// lastGoodName is the name of the file.
const lastGoodName = "policy-last-good.yaml"

func (k *lastGood) path() string { return filepath.Join(k.directory, lastGoodName) }

// The lines that begin the file, and the one that ends it, with the SHA-256 of all before.
const (
	lastGoodTitle  = "# The last valid policy of a source, with which a node starts if its source has none.\n"
	lastGoodSource = "# source: "
	lastGoodDigest = "# digest: "
	lastGoodAt     = "# at: "
	lastGoodSum    = "# sha256: "
)

// write replaces the file, unless it has the policy already.
func (k *lastGood) write(p *policy.Policy, at time.Time) (err error) {
	if k.written == p.Digest() {
		return nil
	}
	if err := os.MkdirAll(k.directory, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(k.path()+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // err says that it is not what it should be
		}
	}()
	err = func() error {
		sum := sha256.New()
		w := io.MultiWriter(f, sum)
		if _, err := fmt.Fprintf(w, "%s%s%s\n%s%s\n%s%s\n", lastGoodTitle, lastGoodSource, k.source, lastGoodDigest, p.Digest(), lastGoodAt, at.UTC().Format(time.RFC3339)); err != nil {
			return err
		}
		if err := p.Definition().WriteYAML(w, nil); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(f, "%s%x\n", lastGoodSum, sum.Sum(nil)); err != nil {
			return err
		}
		return f.Sync()
	}()
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), k.path()); err != nil {
		return err
	}
	k.written = p.Digest()
	return syncDirectory(k.directory)
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// read returns the policy in the file, and when it came from its source. It must be of
// the same source, and be what was written.
func (k *lastGood) read() (p *policy.Policy, at time.Time, err error) {
	text, err := os.ReadFile(k.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, at, fmt.Errorf("%s does not exist yet", k.path())
	} else if err != nil {
		return nil, at, err
	}
	end := max(bytes.LastIndex(text, []byte(lastGoodSum)), 0)
	if sum := fmt.Sprintf("%s%x\n", lastGoodSum, sha256.Sum256(text[:end])); sum != string(text[end:]) {
		return nil, at, fmt.Errorf("%s is damaged: it does not end with its checksum", k.path())
	}
	values := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan() && strings.HasPrefix(lines.Text(), "#"); {
		for _, name := range []string{lastGoodSource, lastGoodDigest, lastGoodAt} {
			if value, ok := strings.CutPrefix(lines.Text(), name); ok {
				values[name] = value
			}
		}
	}
	if values[lastGoodSource] != k.source {
		return nil, at, fmt.Errorf("%s is of another source, %q", k.path(), values[lastGoodSource])
	}
	if at, err = time.Parse(time.RFC3339, values[lastGoodAt]); err != nil {
		return nil, at, fmt.Errorf("%s does not say when it was written", k.path())
	}
	p, err = policy.Parse(k.path(), text, k.catalog)
	return p, at, err
}
