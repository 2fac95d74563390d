// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// location is which nodes hold a key, by name.
type location struct{ Key, Owner, Heir string }

const (
	locateTimeout  = 5 * time.Second
	maxLocateBytes = 8 << 20
)

// locate asks a node which nodes hold the keys. The result has the order of the keys.
func locate(ctx context.Context, address string, keys []key) ([]location, error) {
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	query := url.Values{}
	for _, k := range keys {
		query.Add("key", k.name)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v1/owner?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("locate keys: %w", err)
	}
	defer resp.Body.Close()
	var answer struct{ Keys []location }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLocateBytes)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("locate keys: status %s: %w", resp.Status, err)
	}
	if len(answer.Keys) != len(keys) {
		return nil, fmt.Errorf("locate keys: status %s with %d keys, want %d", resp.Status, len(answer.Keys), len(keys))
	}
	for i := range keys {
		if answer.Keys[i].Key != keys[i].name {
			return nil, fmt.Errorf("locate keys: got %q instead of %q", answer.Keys[i].Key, keys[i].name)
		}
	}
	return answer.Keys, nil
}
