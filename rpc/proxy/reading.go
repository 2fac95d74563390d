// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/url"
	"path"
	"slices"
	"strings"
)

// Bounds of the work for one path. A path beyond them is rejected.
const (
	maxOddPath  = 4 << 10 // bytes of a path that is not plain
	maxReadings = 256
)

// readings returns the paths, in lower case, that servers may read when base and the
// path of u are sent to them. A lenient server ignores case, parameters or white space,
// or dots at the end, accepts backslashes, unescapes a path once more or truncates it, and does so in any
// order. It is false if there are too many.
func readings(base string, u *url.URL) (read []string, ok bool) {
	read = []string{strings.ToLower(join(base, u.Path))}
	if u.RawPath == "" && isLiteral(read[0]) {
		return read, true
	}
	if len(u.Path) > maxOddPath || len(u.RawPath) > maxOddPath {
		return nil, false
	}
	if sent := strings.ToLower(join(base, u.EscapedPath())); sent != read[0] {
		read = append(read, sent)
	}
	for i := 0; i < len(read); i++ {
		for _, step := range [...]func(string) string{unescape, unescapeButSlashes, normalize, foldCase, dropParameters, trimSpaces, trimDots, before("?"), before("#"), before("\x00"), replaceBackslashes} {
			if got := step(read[i]); !slices.Contains(read, got) {
				read = append(read, got)
			}
		}
		if len(read) > maxReadings {
			return nil, false
		}
	}
	return read, true
}

// join appends the path of a request to that of the upstream, as the reverse proxy does.
func join(base, target string) string {
	if base == "" {
		return target
	}
	return strings.TrimSuffix(base, "/") + "/" + strings.TrimPrefix(target, "/")
}

// isLiteral reports whether every server reads a path in lower case in the same way,
// but for repeated slashes.
func isLiteral(target string) bool {
	for i := range len(target) {
		switch c := target[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '/', c == ':', c == '@', c == '+', c == '~':
		case c == '.' && i > 0 && target[i-1] != '/' && target[i-1] != '.' && i+1 < len(target) && target[i+1] != '/': // not in . and .., nor at the end of a segment
		default:
			return false
		}
	}
	return true
}

// before returns a function that cuts a path before the first query separator, fragment
// separator or NUL byte. Each server looks for some of them only.
func before(separator string) func(string) string {
	return func(target string) string {
		target, _, _ = strings.Cut(target, separator)
		return target
	}
}

func replaceBackslashes(target string) string { return strings.ReplaceAll(target, `\`, "/") }

// dropParameters removes what follows a semicolon in a segment.
func dropParameters(target string) string {
	if !strings.Contains(target, ";") {
		return target
	}
	segments := strings.Split(target, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	return strings.Join(segments, "/")
}

// trimSpaces removes white space and control characters around segments.
func trimSpaces(target string) string {
	segments := strings.Split(target, "/")
	for i, segment := range segments {
		segments[i] = strings.TrimFunc(segment, func(c rune) bool { return c <= ' ' })
	}
	return strings.Join(segments, "/")
}

// trimDots removes dots at the end of segments, as Windows does with names.
func trimDots(target string) string {
	segments := strings.Split(target, "/")
	for i, segment := range segments {
		if name := strings.TrimRight(segment, "."); name != "" {
			segments[i] = name
		}
	}
	return strings.Join(segments, "/")
}

// foldCase returns a path in lower case in which letters that have the same capital as
// another one, such as the long s, have become that.
func foldCase(target string) string { return strings.ToLower(strings.ToUpper(target)) }

// unescapeButSlashes resolves the escapes of a path that are not those of slashes and
// percent signs.
func unescapeButSlashes(target string) string {
	keep := strings.NewReplacer("%2f", "%252f", "%5c", "%255c", "%25", "%2525")
	return unescape(keep.Replace(target))
}

// normalize returns a path in lower case without empty and dot segments.
func normalize(target string) string { return path.Clean("/" + strings.ToLower(target)) }

// unescape resolves the valid percent escapes of a path and keeps invalid ones.
func unescape(target string) string {
	if !strings.Contains(target, "%") {
		return target
	}
	var b strings.Builder
	for i := 0; i < len(target); i++ {
		if target[i] == '%' && i+2 < len(target) {
			high, ok1 := hexDigit(target[i+1])
			low, ok2 := hexDigit(target[i+2])
			if ok1 && ok2 {
				b.WriteByte(high<<4 | low)
				i += 2
				continue
			}
		}
		b.WriteByte(target[i])
	}
	return b.String()
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
