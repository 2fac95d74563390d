// SPDX-License-Identifier: Apache-2.0

// Package statuspage renders the status of a node and of its cluster as one HTML
// page that loads nothing else.
//
// The texts of a status are not trusted, since they come from other members. They
// are escaped, and [ContentSecurityPolicy] allows no script and no style but those
// of this package.
package statuspage

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"net/netip"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"count":    count,
	"date":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"stamp":    func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"duration": formatDuration,
	"rate":     formatRate,
	"percent":  func(share float64) string { return strconv.FormatFloat(share*100, 'f', 1, 64) + " %" },
	"seconds":  func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s" },
	"link":     link,
}).Parse(pageHTML))

var securityPolicy = "default-src 'none'; script-src " + source(pageJS) + "; style-src " + source(pageCSS) +
	"; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ContentSecurityPolicy returns the header of that name to serve the page with.
func ContentSecurityPolicy() string { return securityPolicy }

// source is the policy source that allows one inline text.
func source(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Write writes the page of a status to w. The same status gives the same bytes. An
// error comes from w. Write is safe for concurrent use.
func Write(w io.Writer, s Status) error {
	colours := coloursOf(s)
	strip, legend := draw(s.Owners, colours)
	return page.Execute(w, struct {
		Status
		Notices []notice
		Strip   []band
		Legend  []share
		CSS     template.CSS
		JS      template.JS
	}{s, noticesOf(s), strip, legend, template.CSS(pageCSS), template.JS(pageJS)})
}

// count formats an integer of any type of a [Status], 4096 as 4,096.
func count(n any) string {
	switch n := n.(type) {
	case int:
		return amount.Group(int64(n))
	case uint64:
		return amount.Group(int64(min(n, math.MaxInt64)))
	case int64:
		return amount.Group(n)
	}
	return fmt.Sprint(n)
}

// formatRate formats a rate, with one decimal if it is small.
func formatRate(rate float64) string {
	if rate < 100 {
		return strconv.FormatFloat(rate, 'f', 1, 64)
	}
	return amount.Group(int64(rate + 0.5))
}

// formatDuration formats the two largest units of d.
func formatDuration(d time.Duration) string {
	seconds := int64(d / time.Second)
	for _, unit := range []struct {
		seconds, part int64
		name, below   string
	}{
		{86_400, 3600, " d", " h"},
		{3600, 60, " h", " min"},
		{60, 1, " min", " s"},
	} {
		if seconds >= unit.seconds {
			whole := strconv.FormatInt(seconds/unit.seconds, 10) + unit.name
			return whole + " " + strconv.FormatInt(seconds%unit.seconds/unit.part, 10) + unit.below
		}
	}
	return strconv.FormatInt(seconds, 10) + " s"
}

// link is the URL of the page of the node with an HTTP address, or "" if the
// address cannot be dialled.
func link(address string) string {
	a, err := netip.ParseAddrPort(address)
	if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() {
		return ""
	}
	return "http://" + a.String() + "/status"
}
