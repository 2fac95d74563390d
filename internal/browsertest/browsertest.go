// SPDX-License-Identifier: Apache-2.0

// Package browsertest runs Chromium for tests of pages.
package browsertest

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/chromedp/chromedp"
)

// Start starts Chromium, which stops when the test ends, and returns its context.
func Start(t *testing.T) context.Context {
	t.Helper()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("Debian's package chromium is needed: %v", err)
	}
	// The context of the test ends before its cleanup.
	allocator, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), append(
		chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.DisableGPU, // it may run as root, on a machine without a screen
		chromedp.UserDataDir(t.TempDir()),
	)...)
	t.Cleanup(stop)
	ctx, closeBrowser := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		// Waits for the process, so that no goroutine of it is left.
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("close the browser: %v", err)
		}
		closeBrowser()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", browser, err)
	}
	return ctx
}

// Shots returns the folder for screenshots: that of BUCKETRING_SHOTS, which keeps them, or one
// of the test.
func Shots(t *testing.T) string {
	t.Helper()
	if shots := os.Getenv("BUCKETRING_SHOTS"); shots != "" {
		return shots
	}
	return t.TempDir()
}
