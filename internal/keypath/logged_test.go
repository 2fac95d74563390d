// SPDX-License-Identifier: Apache-2.0

package keypath

import (
	"errors"
	"strings"
	"testing"
)

func TestLogForm(t *testing.T) {
	failed := errors.New("settle acme/alice: no acme/alice: x")
	for _, tt := range []struct {
		form              LogForm
		name, value, text string
	}{
		{LogPlain, "key", "acme/alice", "settle acme/alice: no acme/alice: x"},
		{LogHash, "key_hash", "cb023568eca578b5", "settle cb023568eca578b5: no cb023568eca578b5: x"},
	} {
		if name, value := tt.form.Field("acme/alice"); name != tt.name || value != tt.value {
			t.Errorf("Field() = %s, %s, want %s, %s", name, value, tt.name, tt.value)
		}
		if got := tt.form.ErrorText(failed, "acme/alice"); got != tt.text {
			t.Errorf("ErrorText() = %q, want %q", got, tt.text)
		}
	}
	if _, value := LogPlain.Field(strings.Repeat("k", 1000)); len(value) > maxLogged+20 {
		t.Errorf("a long key takes %d bytes of a line", len(value))
	}
	if got := LogHash.ErrorText(failed, ""); got != failed.Error() {
		t.Errorf("ErrorText() without a key = %q", got)
	}
}
