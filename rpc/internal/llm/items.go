// SPDX-License-Identifier: Apache-2.0

package llm

// extras are what an answer shows to have fees of its own.
type extras struct{ images, searches int64 }

func (x *extras) add(y extras) {
	x.images += y.images
	x.searches += y.searches
}

// max sets the larger of both numbers of each.
func (x *extras) max(y extras) {
	x.images = max(x.images, y.images)
	x.searches = max(x.searches, y.searches)
}

// generated counts the images and searches of an answer. Streams say the same several
// times: an item when it is done, and all items at the end. The larger number counts.
type generated struct {
	single  extras // items that an event has alone
	listed  extras // the most items that were listed together
	partial bool   // a part of an image came after the last image
	summary bool   // the last event of a stream of images has none: each came before
}

// event adds what an event has, or a whole answer.
func (g *generated) event(d *document) {
	single := d.single
	switch string(d.eventType()) {
	case "response.image_generation_call.partial_image", "image_generation.partial_image", "image_edit.partial_image":
		g.partial = true
	case "image_generation.partial_succeeded", "image_edit.partial_succeeded":
		single.images++
		g.summary = true
	case "image_generation.completed", "image_edit.completed":
		if !g.summary {
			single.images++
		}
	}
	if single.images > 0 {
		g.partial = false
	}
	g.single.add(single)
	g.listed.max(d.listed)
	g.listed.max(extras{images: max(d.data, d.imageList)})
}

// extras returns what was counted up to now.
func (g *generated) extras() extras {
	x := g.single
	if g.partial {
		x.images++
	}
	x.max(g.listed)
	return x
}

// item is the state of an output item of a response, or of a content block of a message.
type item struct {
	level    int // of its members; 0: there is none
	listed   bool
	reading  bool // the current string is one of its texts
	text     [24]byte
	textLen  int
	kind     itemKind
	visit    bool // its action is to open a page, or to find something in it
	failed   bool
	withList bool // its content is a list
}

type itemKind uint8

const (
	otherItem itemKind = iota
	searchItem
	searchResultItem // searched if its content is a list; otherwise that is an error
	imageItem
)

// itemKinds are the types of items that have fees. The results of fetching a page, of code
// and of tools of the caller have none.
func itemKindOf(name []byte) itemKind {
	switch string(name) {
	case "web_search_call", "file_search_call", "x_search_call":
		return searchItem
	case "web_search_tool_result":
		return searchResultItem
	case "image_generation_call":
		return imageItem
	}
	return otherItem
}

// enterItem begins an object or list at the current level, and counts or follows it.
func (d *document) enterItem(c byte) {
	switch {
	case d.item.level > 0:
		if d.depth == d.item.level && c == '[' && d.label() == contentLabel {
			d.item.withList = true
		}
	case c == '{' && d.isItem():
		d.item = item{level: d.depth + 1, listed: d.isListed()}
	}
	if d.depth == 2 && !d.isObject(2) || d.labels[1] == choicesLabel {
		d.countImage()
	}
}

// isItem reports whether the object that begins is an output item or a content block.
func (d *document) isItem() bool {
	switch d.e {
	case Responses:
		return d.depth == 1 && d.labels[1] == itemLabel || d.depth == 2 && d.labels[1] == outputLabel && !d.isObject(2) ||
			d.depth == 3 && d.labels[1] == responseLabel && d.labels[2] == outputLabel && !d.isObject(3)
	case Messages:
		return d.depth == 1 && d.labels[1] == contentBlockLabel || d.depth == 2 && d.labels[1] == contentLabel && !d.isObject(2)
	}
	return false
}

// isListed reports whether the item that begins is one of all items of an answer.
func (d *document) isListed() bool { return d.depth > 1 }

// countImage counts the element of a list that begins, if it is an image.
func (d *document) countImage() {
	switch {
	case d.e == Other && d.hasImages && d.depth == 2 && d.labels[1] == dataLabel:
		d.data++
	case d.e == Other && d.hasImages && d.depth == 2 && d.labels[1] == imagesLabel:
		d.imageList++
	case d.e == ChatCompletions && d.depth == 5 && d.label() == imagesLabel && d.labels[1] == choicesLabel && !d.isObject(5):
		d.single.images++
	}
}

// beginItemText begins a string, which may be a text of the current item: its type, its
// status, or the type of its action.
func (d *document) beginItemText() {
	if d.item.level == 0 || d.depth > d.item.level+1 || d.depth >= maxLabels {
		return
	}
	switch d.labels[d.depth] {
	case typeLabel:
		d.item.reading = d.depth == d.item.level || d.labels[d.item.level] == actionLabel && d.isObject(d.depth)
	case statusLabel:
		d.item.reading = d.depth == d.item.level && d.e == Responses
	}
	d.item.textLen = 0
}

// endItemText reads a text of the current item.
func (d *document) endItemText() {
	i := &d.item
	i.reading = false
	if i.textLen > len(i.text) {
		return
	}
	text := i.text[:i.textLen]
	switch {
	case d.depth > i.level:
		i.visit = string(text) != "search"
	case d.labels[d.depth] == statusLabel:
		i.failed = string(text) == "failed"
	default:
		i.kind = itemKindOf(text)
	}
}

// leaveItem ends the current item.
func (d *document) leaveItem() {
	i := d.item
	d.item = item{}
	var x extras
	switch {
	case i.failed:
	case i.kind == searchItem && !i.visit, i.kind == searchResultItem && i.withList:
		x.searches = 1
	case i.kind == imageItem:
		x.images = 1
	}
	if i.listed {
		d.listed.add(x)
	} else {
		d.single.add(x)
	}
}
