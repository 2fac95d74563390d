// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// maxOwnerKeys is how many keys one call may name.
const maxOwnerKeys = 1024

// ownersJSON is the answer to owner.
type ownersJSON struct {
	Keys []locationJSON `json:"keys"`
}

type locationJSON struct {
	Key       string `json:"key"`
	Partition int32  `json:"partition"`
	Owner     string `json:"owner"`
	Address   string `json:"address"`
	Heir      string `json:"heir"`
	State     string `json:"state"`
	Term      uint64 `json:"term"`
}

// owner answers which members own keys, as this node sees it.
func (a *api) owner(w http.ResponseWriter, r *http.Request) error {
	var q pb.LocateRequest
	if err := readQuery(r.URL.RawQuery, []field{{"key", &q.Keys}}); err != nil {
		return err
	}
	switch n := len(q.Keys); {
	case n == 0:
		return invalid("key", "must be given, once or more often")
	case n > maxOwnerKeys:
		return invalid("key", fmt.Sprintf("must be given at most %d times, got %d", maxOwnerKeys, n))
	}
	found, err := a.service.Locate(r.Context(), &q)
	if err != nil {
		return keyProblem(err)
	}
	answer := ownersJSON{Keys: make([]locationJSON, len(found.GetLocations()))}
	for i, l := range found.GetLocations() {
		answer.Keys[i] = locationJSON{
			Key:       l.GetKey(),
			Partition: l.GetPartition(),
			Owner:     l.GetOwner(),
			Address:   l.GetAddress(),
			Heir:      l.GetHeir(),
			State:     l.GetState(),
			Term:      l.GetTerm(),
		}
	}
	a.write(w, http.StatusOK, answer)
	return nil
}

// keyProblem renames the field of an error: keys[1] of gRPC is key in a query.
func keyProblem(err error) error {
	e := server.Describe(err)
	if !strings.HasPrefix(e.GetField(), "keys[") {
		return err
	}
	return invalid("key", strings.TrimPrefix(e.GetMessage(), e.GetField()+": "))
}
