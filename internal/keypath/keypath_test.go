// SPDX-License-Identifier: Apache-2.0

package keypath

import "testing"

func TestRoot(t *testing.T) {
	for key, want := range map[string]string{"acme": "acme", "acme/alice": "acme", "acme/a/b/c": "acme", "": "", "/a": ""} {
		if got := Root(key); got != want {
			t.Errorf("Root(%q) = %q, want %q", key, got, want)
		}
	}
}

// Partitions are a wire format: these values must never change.
func TestPartitionIsStable(t *testing.T) {
	for key, want := range map[string]uint64{"": 0xef46db3751d8e999, "a": 0xd24ec4f1a98c6e5b, "a/b": 0xd24ec4f1a98c6e5b} {
		if got := RootHash(key); got != want {
			t.Errorf("RootHash(%q) = %#x, want %#x", key, got, want)
		}
		if got := Partition(key, 4096); got != int(want%4096) {
			t.Errorf("Partition(%q, 4096) = %d, want %d", key, got, want%4096)
		}
	}
}
