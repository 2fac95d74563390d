// SPDX-License-Identifier: Apache-2.0

package llm

// maxNullBytes is the length of the longest member "usage":null that is removed, with
// white space and its comma.
const maxNullBytes = 64

// nullMember finds the member "usage":null of the outermost object, with the comma
// that belongs to it: the one before it, or the one after it if it is the first
// member. Removing these bytes leaves the object without the member. Only the first
// such member counts, and only if it is in one data line.
type nullMember struct {
	stage  nullStage
	first  bool // of the object
	letter int  // letters of null so far

	from, to int64 // its position in the text; valid in nullFound
}

type nullStage uint8

const (
	nullName   nullStage = iota // its name may follow
	nullInName                  // in a name, which may be usage
	nullColon                   // the value follows
	nullValue                   // in the value
	nullEnded                   // after the value
	nullComma                   // after the comma after the first member
	nullAbsent                  // not before the next comma
	nullFound
	nullRemoved
)

const nullText = "null"

// next reads a byte at a position in the text, outside of strings and in the outermost
// object. isUsage: the name of the current member is usage.
func (n *nullMember) next(c byte, at int64, isUsage bool) {
	switch {
	case n.stage >= nullFound:
		return
	case c == ' ', c == '\t':
		if n.stage == nullValue {
			n.endValue(at)
		}
		return
	case c == '\n', c == '\r':
		n.stage, n.first = nullAbsent, false
		return
	case n.stage == nullAbsent:
		if c == ',' {
			n.begin(at)
		}
		return
	}
	if n.stage == nullValue && (n.letter == len(nullText) || c != nullText[n.letter]) {
		n.endValue(at)
	}
	switch {
	case n.stage > nullName && at-n.from > maxNullBytes:
		n.stage = nullAbsent
		if c == ',' {
			n.begin(at)
		}
	case n.stage == nullName && c == '"':
		if n.first {
			n.from = at
		}
		n.stage = nullInName
	case n.stage == nullInName && c == ':' && isUsage:
		n.stage, n.letter = nullColon, 0
	case n.stage == nullColon && c == nullText[0]:
		n.stage, n.letter = nullValue, 1
	case n.stage == nullValue:
		n.letter++
	case n.stage == nullEnded && n.first && c == ',':
		n.stage = nullComma
	case n.stage == nullEnded && (c == ',' || c == '}'):
		n.stage = nullFound
	case n.stage == nullComma && c == '"':
		n.stage, n.to = nullFound, at
	case c == ',':
		n.begin(at)
	default:
		n.stage = nullAbsent
	}
}

// begin begins another member than the first one, at its comma.
func (n *nullMember) begin(at int64) { n.stage, n.first, n.from = nullName, false, at }

// endValue ends the value.
func (n *nullMember) endValue(at int64) {
	n.stage, n.to = nullAbsent, at
	if n.letter == len(nullText) {
		n.stage = nullEnded
	}
}

// pending returns where the bytes begin that may be the member, if the text has been
// read up to a position.
func (n *nullMember) pending(read int64) (from int64, ok bool) {
	if n.stage >= nullAbsent || n.first && n.stage == nullName || read-n.from > maxNullBytes {
		return 0, false
	}
	return n.from, true
}
