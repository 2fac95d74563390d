// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/cputime"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// TestMillionAssignments: a million assignments are read once; afterwards one changed row
// is read alone. It logs how long that takes.
func TestMillionAssignments(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	const rows = 1_000_000
	d := tablesWith(t, small)
	began, used := time.Now(), cputime.Used()
	lap := func(what string) {
		t.Logf("%s: %v, of which this process computed %v", what, time.Since(began).Round(time.Millisecond), (cputime.Used() - used).Round(time.Millisecond))
		began, used = time.Now(), cputime.Used()
	}
	d.Exec(t, "INSERT INTO bucketring_assignments SELECT 'org-' || i / 100 || '/user-' || i, CASE i % 2 WHEN 0 THEN 'free' ELSE 'gold' END FROM generate_series(4, 1000000) i") // and three more
	lap("insert by SQL")
	f := newFeed(t, d)
	p := load(t, f)
	lap("load of all rows")
	want(t, p, "org-9999/user-999999", "gold 50000")
	for range 10 {
		d.Exec(t, "UPDATE bucketring_assignments SET tier = CASE tier WHEN 'free' THEN 'gold' ELSE 'free' END WHERE key = 'org-9999/user-999999'")
		p = load(t, f)
	}
	lap("ten updates of one row, each with a connection, and their loads")
	want(t, p, "org-9999/user-999999", "gold 50000")
	d.Exec(t, "UPDATE bucketring_limits SET amount = 60000 WHERE tier = 'gold'")
	p = load(t, f)
	lap("update of a tier, and its load")
	want(t, p, "org-9999/user-999999", "gold 60000")
	if f.full != 1 {
		t.Errorf("all rows were read %d times, want once", f.full)
	}
	var file bytes.Buffer
	check(t, p.Definition().WriteYAML(&file, nil))
	lap("write as a file")
	again, err := policy.Parse("last-good.yaml", file.Bytes(), limiter.NewCatalog())
	check(t, err)
	lap("read of the file")
	t.Logf("the file has %d MB", file.Len()/1e6)
	if again.Digest() != p.Digest() {
		t.Error("the file has another policy")
	}
	var n int
	for range again.Definition().Assign {
		n++
	}
	if n != rows {
		t.Errorf("the policy has %d assignments, want %d", n, rows)
	}
	// The rows of the test are not written as an import writes them: min is 1m.
	if before, c := importPolicy(t, d, p); c != (Changes{Inserted: 1, Updated: 2}) || before.Digest() != p.Digest() {
		t.Errorf("Import of the same changed %+v", c)
	}
	lap("import of the same")
}
