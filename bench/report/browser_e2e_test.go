// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package report

import (
	"bytes"
	"context"
	"fmt"
	"image"
	_ "image/png" // screenshots
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/bucketring/bucketring/internal/browsertest"
)

// TestBrowser opens reports and pictures in Chromium, light and dark: nothing
// may be said on the console, nothing but the file itself be asked for, nothing
// stick out of the page, and the picture must not be empty. BUCKETRING_SHOTS
// names a folder that keeps the screenshots.
func TestBrowser(t *testing.T) {
	shots := browsertest.Shots(t)
	files := t.TempDir()
	write := func(name string, f func(*bytes.Buffer) error) string {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			t.Fatalf("write %s: %v", name, err)
		}
		path := filepath.Join(files, name)
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fault, versus, hostile := faultRun(t), versusRun(t), hostileRun(t)
	pages := []string{
		write("fault.html", func(b *bytes.Buffer) error { return WriteHTML(b, fault) }),
		write("versus.html", func(b *bytes.Buffer) error { return WriteHTML(b, versus) }),
		write("hostile.html", func(b *bytes.Buffer) error { return WriteHTML(b, hostile) }),
		write("latency.svg", func(b *bytes.Buffer) error { return SVG(b, versus, LatencyPicture) }),
		write("admitted.svg", func(b *bytes.Buffer) error { return SVG(b, versus, AdmittedPicture) }),
	}

	ctx := browsertest.Start(t)
	for _, page := range pages {
		for _, scheme := range []string{"light", "dark"} {
			for _, width := range []int64{1200, 390} {
				name := fmt.Sprintf("%s-%s-%d", filepath.Base(page), scheme, width)
				t.Run(name, func(t *testing.T) {
					look(ctx, t, page, scheme, width, filepath.Join(shots, name+".png"))
				})
			}
		}
	}
}

// look opens one page in a tab of its own.
func look(browser context.Context, t *testing.T, page, scheme string, width int64, shot string) {
	t.Helper()
	ctx, stop := chromedp.NewContext(browser)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()

	address := (&url.URL{Scheme: "file", Path: page}).String()
	var mu sync.Mutex
	var complaints []string
	complain := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		complaints = append(complaints, fmt.Sprintf(format, args...))
	}
	err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			if e.Request.URL != address && !strings.HasPrefix(e.Request.URL, "data:") {
				complain("asked for %s", e.Request.URL)
			}
		case *runtime.EventConsoleAPICalled:
			complain("console.%s: %v", e.Type, e.Args)
		case *runtime.EventExceptionThrown:
			complain("exception: %v", e.ExceptionDetails)
		case *log.EventEntryAdded:
			complain("log %s: %s", e.Entry.Level, e.Entry.Text)
		}
	})
	if err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	must(t, call(ctx, network.Enable, network.EnableParams{}))
	must(t, call(ctx, log.Enable, cdp.Empty{}))
	must(t, call(ctx, runtime.Enable, cdp.Empty{}))
	must(t, call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	}))
	must(t, chromedp.Do(ctx, chromedp.EmulateViewport(width, 900), chromedp.Navigate(address), chromedp.WaitReady(chromedp.CSS("svg"))))
	background := run(ctx, t, chromedp.Evaluate[string](
		`(paper => getComputedStyle(paper || document.body)[paper ? 'fill' : 'backgroundColor'])(document.querySelector('.paper'))`))
	overflow := run(ctx, t, chromedp.Evaluate[int](`document.querySelector('main') ? document.documentElement.scrollWidth - innerWidth : 0`))
	pictures := run(ctx, t, chromedp.Evaluate[int](`[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().height > 50).length`))
	png := run(ctx, t, chromedp.FullScreenshot(100))
	mu.Lock()
	defer mu.Unlock()
	for _, c := range complaints {
		t.Error(c)
	}
	if overflow > 0 {
		t.Errorf("the page is %d px wider than the screen", overflow)
	}
	if pictures == 0 {
		t.Error("no picture has a size")
	}
	if err := os.WriteFile(shot, png, 0o600); err != nil {
		t.Fatal(err)
	}
	img, _, err := image.Decode(bytes.NewReader(png))
	if err != nil {
		t.Fatalf("screenshot: %v", err)
	}
	if n := colours(img); n < 20 {
		t.Errorf("the screenshot has %d colours, want a picture", n)
	}
	if dark := darkness(background); dark != (scheme == "dark") {
		t.Errorf("the background is %s in %s", background, scheme)
	}
}

func call[P, R any](ctx context.Context, command cdp.Command[P, R], params P) error {
	_, err := chromedp.Call(ctx, command, params)
	return err
}

func run[T any](ctx context.Context, t *testing.T, action chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, action)
	must(t, err)
	return v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// colours counts the distinct colours of a grid of points.
func colours(img image.Image) int {
	seen := make(map[[3]uint32]bool)
	b := img.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y += 3 {
		for x := b.Min.X; x < b.Max.X; x += 3 {
			r, g, b, _ := img.At(x, y).RGBA()
			seen[[3]uint32{r >> 8, g >> 8, b >> 8}] = true
		}
	}
	return len(seen)
}

func darkness(colour string) bool {
	var r, g, b int
	_, _ = fmt.Sscanf(colour, "rgb(%d, %d, %d)", &r, &g, &b)
	return r+g+b < 3*128
}
