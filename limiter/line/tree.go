// SPDX-License-Identifier: Apache-2.0

package line

// A lane's waiters are a treap, by their rounds. Each node has the number and the cost of its
// subtree, so that what is ahead of a call is known in O(log n). Nodes are waiters.

// maxSum bounds sums of costs, far from overflow.
const maxSum = 1 << 61

// before reports whether a goes before b in a lane. Rounds may wrap around.
func (a *waiter) before(b *waiter) bool {
	if a.round != b.round {
		return a.round-b.round < 0
	}
	if a.arrived != b.arrived {
		return a.arrived < b.arrived
	}
	return a.seq < b.seq
}

// update recomputes the sums of a node.
func (l *Line) update(n int32) {
	w := l.at(n)
	w.count, w.sum = 1, w.cost
	for _, child := range [...]int32{w.left, w.right} {
		if child != 0 {
			c := l.at(child)
			w.count += c.count
			w.sum = min(w.sum+c.sum, maxSum)
		}
	}
}

// split splits a tree into what goes before w, and the rest.
func (l *Line) split(n int32, w *waiter) (before, rest int32) {
	if n == 0 {
		return 0, 0
	}
	x := l.at(n)
	if x.before(w) {
		x.right, rest = l.split(x.right, w)
		before = n
	} else {
		before, x.left = l.split(x.left, w)
		rest = n
	}
	l.update(n)
	return before, rest
}

// merge joins two trees. All of a goes before all of b.
func (l *Line) merge(a, b int32) int32 {
	switch {
	case a == 0:
		return b
	case b == 0:
		return a
	}
	x, y := l.at(a), l.at(b)
	if x.balance > y.balance {
		x.right = l.merge(x.right, b)
		l.update(a)
		return a
	}
	y.left = l.merge(a, y.left)
	l.update(b)
	return b
}

// insert adds a node to a tree.
func (l *Line) insert(root, n int32) int32 {
	w := l.at(n)
	if root == 0 {
		w.left, w.right = 0, 0
		l.update(n)
		return n
	}
	x := l.at(root)
	switch {
	case w.balance > x.balance:
		w.left, w.right = l.split(root, w)
		l.update(n)
		return n
	case w.before(x):
		x.left = l.insert(x.left, n)
	default:
		x.right = l.insert(x.right, n)
	}
	l.update(root)
	return root
}

// remove removes a node from a tree that has it.
func (l *Line) remove(root, n int32) int32 {
	if root == n {
		w := l.at(n)
		root = l.merge(w.left, w.right)
		w.left, w.right = 0, 0
		return root
	}
	x := l.at(root)
	if l.at(n).before(x) {
		x.left = l.remove(x.left, n)
	} else {
		x.right = l.remove(x.right, n)
	}
	l.update(root)
	return root
}

// first returns the first node of a tree, 0 if it is empty.
func (l *Line) first(root int32) int32 {
	for root != 0 && l.at(root).left != 0 {
		root = l.at(root).left
	}
	return root
}

// ahead returns how many of a tree go before w, and what they cost.
func (l *Line) ahead(root int32, w *waiter) (count int, cost int64) {
	for root != 0 {
		x := l.at(root)
		if !x.before(w) {
			root = x.left
			continue
		}
		count++
		cost = min(cost+x.cost, maxSum)
		if x.left != 0 {
			c := l.at(x.left)
			count += int(c.count)
			cost = min(cost+c.sum, maxSum)
		}
		root = x.right
	}
	return count, cost
}

// total returns how many a tree has, and what they cost.
func (l *Line) total(root int32) (count int, cost int64) {
	if root == 0 {
		return 0, 0
	}
	w := l.at(root)
	return int(w.count), w.sum
}
