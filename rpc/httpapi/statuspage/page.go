// SPDX-License-Identifier: Apache-2.0

// Package statuspage draws the status of a node and of its cluster for people:
// one HTML page that asks nobody for anything but itself.
//
// What it is given is not trusted: names come from other members. They are
// escaped wherever they are shown, and [ContentSecurityPolicy] allows no script
// and no style but the ones of this package.
package statuspage

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net/netip"
	"strconv"
	"time"
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
	"count":  count,
	"date":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"stamp":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"lasted": lasted,
	"link":   link,
}).Parse(pageHTML))

var securityPolicy = "default-src 'none'; script-src " + source(pageJS) + "; style-src " + source(pageCSS) +
	"; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ContentSecurityPolicy is the header of that name that the page is made for.
func ContentSecurityPolicy() string { return securityPolicy }

// source allows one text in a policy.
func source(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Write writes the page. The same status gives the same bytes. It is safe for
// concurrent use; an error is one of w.
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

// count writes the integer 4096 as 4,096.
func count(n any) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// lasted writes the two largest units of d.
func lasted(d time.Duration) string {
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

// link is where the page of the node with an HTTP address is, or "": what is
// not an address that can be dialled gets no link.
func link(address string) string {
	a, err := netip.ParseAddrPort(address)
	if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() {
		return ""
	}
	return "http://" + a.String() + "/status"
}
