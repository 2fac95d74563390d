// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package node

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/bucketring/bucketring/internal/browsertest"
	"github.com/bucketring/bucketring/internal/config"
)

// TestStatusPageInBrowser opens the page of a node in Chromium, light and dark, wide and 400 px,
// and looks up keys: nothing may be said on the console, no other address be asked, nothing stick
// out of the page, and a lookup must charge nothing. BUCKETRING_SHOTS names a folder that keeps
// the screenshots.
func TestStatusPageInBrowser(t *testing.T) {
	shots := browsertest.Shots(t)
	nodes := startCluster(t, 2, nil)
	agree(t, nodes...)
	n := nodes[0]
	for range 14 { // 10 a minute are allowed
		resp, err := http.Post("http://"+n.HTTPAddr()+"/v1/check", "", strings.NewReader(`{"key":"acme/alice","tier":"free","model":"<b>m</b>","input_tokens":20}`))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}

	ctx := browsertest.Start(t)
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1200, 400} {
			name := fmt.Sprintf("status-%s-%d", scheme, width)
			t.Run(name, func(t *testing.T) {
				tab := openTab(ctx, t, scheme, width)
				tab.do(chromedp.Navigate("http://"+n.HTTPAddr()+"/"), chromedp.WaitReady(chromedp.CSS("#search")))
				if path := tab.text(`location.pathname`); path != "/status" {
					t.Errorf("/ leads to %s, want /status", path)
				}
				tab.lookUp("acme/alice", "free")
				tab.until(`document.querySelectorAll('#found tbody tr').length === 4`)
				if row := tab.text(`document.querySelector('#found tbody tr').innerText.replace(/\s+/g, ' ')`); !regexp.MustCompile(`^requests acme/alice [0-9] 10 `).MatchString(row) { // they come back, one in 6 s
					t.Errorf("the first limit is %q, want less than 10 requests of 10", row)
				}
				tab.until(`document.querySelector('[data-live=denials]').innerText.includes('limit_exceeded')`)
				tab.until(`document.querySelector('[data-live=traffic] svg.chart') !== null`) // a sample has been taken
				if name := tab.text(`[...document.querySelectorAll('input')].map(i => i.labels[0].innerText.trim()).join()`); name != "Key,Tier,Model" {
					t.Errorf("the fields are labelled %q", name)
				}
				tab.shoot(filepath.Join(shots, name+".png"))
				if overflow := tab.number(`document.documentElement.scrollWidth - innerWidth`); overflow > 0 {
					t.Errorf("the page is %d px wider than the screen", overflow)
				}
				if dark := tab.number(`getComputedStyle(document.body).backgroundColor.match(/\d+/g).reduce((a, b) => a + +b, 0)`) < 3*128; dark != (scheme == "dark") {
					t.Errorf("dark is %t in %s", dark, scheme)
				}
				tab.check(n.HTTPAddr())

				tab.lookUp("<img src=x onerror=alert(1)>//", "")
				tab.until(`document.querySelector('#found .alarm')?.innerText.includes('segments must not be empty')`)
				tab.lookUp("acme/alice", "nonsense")
				tab.until(`document.querySelector('#found .alarm')?.innerText.includes('must be a tier of the policy')`)
			})
		}
	}
	t.Run("with a password", func(t *testing.T) {
		f := newAuthFile(t)
		guarded := start(t, func(c *config.Config) { c.Auth = f.path })
		tab := openTab(ctx, t, "light", 1200)
		// The browser keeps the password, and sends it where the page asks.
		tab.do(chromedp.Navigate("http://anybody:"+f.tokens["ops"]+"@"+guarded.HTTPAddr()+"/status"), chromedp.WaitReady(chromedp.CSS("#search")))
		tab.do(chromedp.Navigate("http://"+guarded.HTTPAddr()+"/"), chromedp.WaitReady(chromedp.CSS("#search")))
		tab.lookUp("acme/alice", "free")
		tab.until(`document.querySelectorAll('#found tbody tr').length === 4`)
	})
	if _, answer := n.get("/v1/limits?key=acme/bob&tier=free"); !strings.Contains(answer, `"remaining":10,`) {
		t.Errorf("limits %s, want a key that nothing was charged", answer)
	}
	if s := n.Status(); s.State.Keys+nodes[1].Status().State.Keys != 1 {
		t.Errorf("%d keys, want that of the checks: looking up creates none", s.State.Keys)
	}
}

// tab is a tab of Chromium, with what it has complained about.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu    sync.Mutex
	asked []string
	said  []string
}

func openTab(browser context.Context, t *testing.T, scheme string, width int64) *tab {
	t.Helper()
	ctx, stop := chromedp.NewContext(browser)
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx}
	err := chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			b.asked = append(b.asked, e.Request.URL)
		case *runtime.EventConsoleAPICalled:
			b.said = append(b.said, fmt.Sprintf("console.%s: %v", e.Type, e.Args))
		case *runtime.EventExceptionThrown:
			b.said = append(b.said, fmt.Sprintf("exception: %v", e.ExceptionDetails))
		case *cdplog.EventEntryAdded:
			b.said = append(b.said, fmt.Sprintf("log %s: %s", e.Entry.Level, e.Entry.Text))
		}
	})
	if err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	b.call(callBrowser(ctx, network.Enable, network.EnableParams{}))
	b.call(callBrowser(ctx, cdplog.Enable, cdp.Empty{}))
	b.call(callBrowser(ctx, runtime.Enable, cdp.Empty{}))
	b.call(callBrowser(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	}))
	b.do(chromedp.EmulateViewport(width, 900))
	return b
}

func callBrowser[P, R any](ctx context.Context, command cdp.Command[P, R], params P) error {
	_, err := chromedp.Call(ctx, command, params)
	return err
}

func (b *tab) call(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	b.call(chromedp.Do(b.ctx, actions...))
}

func (b *tab) text(script string) string {
	b.t.Helper()
	s, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](script))
	b.call(err)
	return s
}

func (b *tab) number(script string) int {
	b.t.Helper()
	n, err := chromedp.Run(b.ctx, chromedp.Evaluate[int](script))
	b.call(err)
	return n
}

// until waits until a condition is true.
func (b *tab) until(condition string) {
	b.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for b.number(`+!!(`+condition+`)`) == 0 {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s is not so within 30 s; the page says:\n%s", condition, b.text(`document.getElementById('found').innerText`))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// lookUp fills in the search and sends it.
func (b *tab) lookUp(key, tier string) {
	b.t.Helper()
	b.text(fmt.Sprintf(`(() => { const f = document.getElementById('search'); f.elements.key.value = %q; f.elements.tier.value = %q; f.requestSubmit(); return '' })()`, key, tier))
}

func (b *tab) shoot(file string) {
	b.t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	b.call(err)
	b.call(os.WriteFile(file, png, 0o600))
}

// check fails if the page has asked another address than that of the node, or complained.
func (b *tab) check(address string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, url := range b.asked {
		if !strings.HasPrefix(url, "http://"+address+"/") && !strings.HasPrefix(url, "data:") {
			b.t.Errorf("asked for %s", url)
		}
	}
	for _, said := range b.said {
		b.t.Error(said)
	}
}
