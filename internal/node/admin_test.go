// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
)

// changed is the answer to a change.
type changed struct {
	RequestID string `json:"request_id"`
	Replayed  bool
	Owner     string
	Limits    []struct {
		Name          string
		Before, After int64
	}
	Drained bool
	Message string
}

// administer posts to a path for operators.
func (r *running) administer(path, body string) (status int, a changed) {
	r.t.Helper()
	resp, err := http.Post("http://"+r.HTTPAddr()+"/v1/admin/"+path, "", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &a); err != nil {
		r.t.Fatalf("%v in %s", err, text)
	}
	return resp.StatusCode, a
}

// TestAdministrationMoves makes changes at a member that does not own the key, drains the
// owner, and repeats the changes: the next owner knows them, with what they did.
func TestAdministrationMoves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	nodes := startCluster(t, 3, func(i int, c *config.Config) {
		if i == 2 {
			c.AuditLog = path
		}
	})
	key := nodes[0].keyOf("n1")
	for range 3 {
		nodes[0].checkKey(key)
	}
	reset := fmt.Sprintf(`{"key":%q,"tier":"free","limit":"requests","request_id":"one"}`, key)
	grant := fmt.Sprintf(`{"key":%q,"tier":"free","limit":"requests","amount":4,"lasts_seconds":3600,"request_id":"two"}`, key)
	if status, a := nodes[2].administer("reset", reset); status != http.StatusOK || a.Replayed || a.Owner != "n1" || len(a.Limits) != 1 || a.Limits[0].Before != 3 || a.Limits[0].After != 0 {
		t.Errorf("reset = %d, %+v, want 3 used before, at n1", status, a)
	}
	if status, a := nodes[2].administer("grant", grant); status != http.StatusOK || a.Replayed || a.Owner != "n1" || a.Limits[0].After != 4 {
		t.Errorf("grant = %d, %+v, want a credit of 4", status, a)
	}
	if got := nodes[1].checkKey(key); got.remaining != 9 {
		t.Errorf("after the reset %d are left, want 9", got.remaining)
	}

	// The owner is drained: it is unready, and others decide for its keys.
	drain := func() (status int, a changed) { return nodes[0].administer("drain", `{"request_id":"three"}`) }
	if status, a := drain(); status != http.StatusAccepted || a.Drained {
		t.Errorf("drain = %d, %+v, want it to begin", status, a)
	}
	waittest.Until(t, "the drain to end", func() bool { _, a := drain(); return a.Drained })
	if err := nodes[0].Ready(); err == nil {
		t.Error("a drained node is ready")
	}
	if got := nodes[0].checkKey(key); got.Owner == "n1" || got.Route != "forward" || got.remaining != 8 {
		t.Errorf("a check at the drained node = %+v, want it decided elsewhere, with 8 left", got)
	}

	for _, n := range nodes {
		if status, a := n.administer("reset", reset); status != http.StatusOK || !a.Replayed || a.Owner == "n1" || a.Limits[0].Before != 3 || a.Limits[0].After != 0 {
			t.Errorf("the reset again at %s = %d, %+v, want the same answer by the next owner", n.Name(), status, a)
		}
		if status, a := n.administer("grant", grant); status != http.StatusOK || !a.Replayed || a.Limits[0].After != 4 {
			t.Errorf("the grant again at %s = %d, %+v, want the same answer", n.Name(), status, a)
		}
	}
	admitted := 0
	for nodes[1].checkKey(key).Outcome == "allowed" {
		admitted++
	}
	if admitted != 8+4 {
		t.Errorf("%d more checks are admitted, want 8 of the limit and 4 of the credit", admitted)
	}

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"result":"started"`, `"result":"done"`, `"result":"replayed"`} {
		if n := strings.Count(string(text), want); n == 0 {
			t.Errorf("the audit log has no %s:\n%s", want, text)
		}
	}
	if !strings.Contains(nodes[0].log.String(), "audit=true") && !strings.Contains(nodes[0].log.String(), `"audit":true`) {
		t.Error("the log of a node without an audit log has no line of the drain")
	}

	// A shutdown has nothing left to hand over.
	if err := nodes[0].ended(); err != nil {
		t.Error(err)
	}
	agree(t, nodes[1], nodes[2])
	if status, a := nodes[1].administer("reset", reset); status != http.StatusOK || !a.Replayed {
		t.Errorf("the reset again after the shutdown = %d, %+v", status, a)
	}
}

// TestAdministrationSurvivesARestart: what an operator has changed is in the journal.
func TestAdministrationSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	edit := func(c *config.Config) { c.Data = dir }
	r := start(t, edit)
	for range 3 {
		r.checkKey("acme/alice")
	}
	reset := `{"key":"acme/alice","tier":"free","limit":"requests","request_id":"one"}`
	grant := `{"key":"acme/alice","tier":"free","limit":"requests","amount":4,"lasts_seconds":3600,"request_id":"two"}`
	for path, body := range map[string]string{"reset": reset, "grant": grant} {
		if status, a := r.administer(path, body); status != http.StatusOK || a.Replayed {
			t.Fatalf("%s = %d, %+v", path, status, a)
		}
	}
	if err := r.ended(); err != nil {
		t.Fatal(err)
	}
	r = start(t, edit)
	if status, a := r.administer("reset", reset); status != http.StatusOK || !a.Replayed || a.Limits[0].Before != 3 {
		t.Errorf("the reset again after a restart = %d, %+v", status, a)
	}
	admitted := 0
	for r.checkKey("acme/alice").Outcome == "allowed" {
		admitted++
	}
	if admitted < 10+4 || admitted > 10+4+1 { // one may be refilled meanwhile
		t.Errorf("%d checks are admitted, want 10 of the limit and 4 of the credit", admitted)
	}
}
