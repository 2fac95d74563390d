// SPDX-License-Identifier: Apache-2.0

package notify

import "testing"

func TestSignal(t *testing.T) {
	s := New()
	select {
	case <-s.C():
		t.Fatal("a new signal is set, want not set")
	default:
	}
	s.Set()
	s.Set() // must not block
	<-s.C()
	select {
	case <-s.C():
		t.Fatal("two Sets woke twice, want once")
	default:
	}
}
