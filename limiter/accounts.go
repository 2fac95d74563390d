// SPDX-License-Identifier: Apache-2.0

package limiter

import "sync/atomic"

// idAccount counts and orders the remembered ids of one root in its partition.
type idAccount struct {
	root        uint64 // its hash
	n           uint32 // entries
	withdrawals uint32
	checks      idQueue // what is remembered for checkRetention
	ended       idQueue // and for endedRetention
}

// accounts is the list of the accounts of a partition. Ids start at 1, so that 0 can mean
// "none".
type accounts struct {
	last  uint32      // the one found last
	hash  uint32      // of its root: others are not compared with it, which may be out of the cache
	all   []idAccount // by id-1; n is 0 where it is free
	index index
	free  []uint32
}

func (x *accounts) at(account uint32) *idAccount { return &x.all[account-1] }

// find returns the account of a root, or 0.
func (x *accounts) find(root uint64) uint32 {
	h := uint32(root >> 32)
	if x.last != 0 && x.hash == h {
		if a := x.at(x.last); a.root == root && a.n > 0 {
			return x.last
		}
	}
	if x.index.n == 0 {
		return 0
	}
	mask := uint32(len(x.index.cells) - 1)
	for pos := h & mask; x.index.cells[pos] != 0; pos = (pos + 1) & mask {
		if account := uint32(x.index.cells[pos]); x.at(account).root == root {
			x.last, x.hash = account, h
			return account
		}
	}
	return 0
}

// near returns the account that the search for a root reads first, which may be that of
// another root, or 0 if it reads none. It does not read the account.
func (x *accounts) near(root uint64) uint32 {
	if x.index.n == 0 {
		return 0
	}
	return uint32(x.index.cells[uint32(root>>32)&uint32(len(x.index.cells)-1)])
}

// ensure returns the account of a root, and creates it if necessary. It returns 0 if
// there are too many.
func (x *accounts) ensure(root uint64) uint32 {
	account := x.find(root)
	if account != 0 || x.index.n == maxAccounts {
		return account
	}
	if n := len(x.free); n > 0 {
		account, x.free = x.free[n-1], x.free[:n-1]
	} else {
		x.all = append(x.all, idAccount{})
		account = uint32(len(x.all))
	}
	x.at(account).root = root
	x.index.insert(uint32(root>>32), account)
	return account
}

// release removes an account if it has no entries. account may be 0.
func (x *accounts) release(account uint32) {
	if account == 0 || x.at(account).n > 0 {
		return
	}
	x.index.remove(uint32(x.at(account).root>>32), account)
	*x.at(account) = idAccount{}
	x.free = append(x.free, account)
}

// next returns the next account with entries after account, or 0.
func (x *accounts) next(account uint32) uint32 {
	for i := int(account); i < len(x.all); i++ {
		if x.all[i].n > 0 {
			return uint32(i + 1)
		}
	}
	return 0
}

// idPool divides the room for ids among the roots. A root may take one more while it has
// less than three times what is free, so one root alone gets three quarters, two get
// three sevenths each, and some room is always left for others. This is the dynamic
// threshold of Choudhury and Hahne (1998) for buffers of switches. A root that has its
// share gives up its oldest ended id for a new one; but if another root has more, that
// one gives first. Live reservations are never given up.
//
// A part of the room is a reserve, which does not count as free. It is for roots with
// few ids, and for those that cannot wait until the root with the most has given.
type idPool struct {
	quota
	reserve int64
	// largest is ids<<16 | partition of the root that holds most, as far as is known. It
	// is a hint: whoever acts on it looks again under the lock of that partition.
	largest atomic.Uint64
}

const (
	maxGivenUp     = 64 // most ids that a root gives up at once
	idReserve      = 64 // the part of MaxIDs that is the reserve
	fewIDs         = 8  // a root with fewer may use the reserve
	maxAccounts    = 1<<24 - 1
	partitionMask  = 1<<16 - 1
	partitionShift = 16
)

// share returns how many ids a root may have.
func (x *idPool) share() int64 { return freeShare * max(x.left.Load()-x.reserve, 0) }

// takeFree takes one unit of what is free, and more for the partition to keep.
func (x *idPool) takeFree(local *int) bool {
	return x.take(local, x.reserve, x.chunk)
}

// takeReserve takes one unit, also of the reserve. Its last half is for roots that have
// nothing to give up.
func (x *idPool) takeReserve(local *int, last bool) bool {
	keep := x.reserve / 2
	if last {
		keep = 0
	}
	return x.take(local, keep, 1)
}

func (x *idPool) take(local *int, keep, most int64) bool {
	for {
		left := x.left.Load()
		n := min(most, left-keep)
		if n <= 0 {
			return false
		}
		if x.left.CompareAndSwap(left, left-n) {
			*local += int(n - 1)
			return true
		}
	}
}

// observe notes that a root has n ids.
func (x *idPool) observe(root uint64, n uint32) {
	if uint64(n) > x.largest.Load()>>partitionShift {
		x.largest.Store(uint64(n)<<partitionShift | root%Partitions)
	}
}

// takeID takes room for one more id of an account. It may remove ended ids, but not the
// account. It returns false if the share of the root is full of live reservations.
func (p *partition) takeID(account uint32) bool {
	if p.idQuota > 0 {
		p.idQuota--
		return true
	}
	pool, a := p.engine.ids, p.accounts.at(account)
	share := pool.share()
	if int64(a.n) < share && pool.takeFree(&p.idQuota) {
		pool.observe(a.root, a.n+1)
		return true
	}
	mayUseReserve := p.largestGives(a) || a.n < fewIDs
	if mayUseReserve && pool.takeReserve(&p.idQuota, false) {
		return true
	}
	a.n++ // keeps the account
	gave := p.forgetOldest(a)
	if gave && int64(a.n) > share+1 { // others need the room that this root had
		p.forgetOldest(a)
	}
	a.n--
	if !gave {
		return mayUseReserve && pool.takeReserve(&p.idQuota, true)
	}
	p.idQuota--
	pool.give(&p.idQuota)
	return true
}

// give returns all units of a partition.
func (q *quota) give(local *int) {
	if *local > 0 {
		q.left.Add(int64(*local))
		*local = 0
	}
}

// largestGives lets the root that has most ids give some up for account a. It returns
// true if a may use the reserve: the root has given, or its partition is busy and it
// will give later.
func (p *partition) largestGives(a *idAccount) bool {
	hint := p.engine.ids.largest.Load()
	if n := uint64(a.n); hint>>partitionShift <= n+n/4 {
		return false // it has about as many
	}
	s := &p.engine.shards[hint&partitionMask]
	if &s.partition == p {
		return p.giveUp(a.n, hint&partitionMask)
	}
	if !s.TryLock() { // waiting could deadlock
		return true
	}
	defer s.Unlock()
	if s.records.closed {
		p.engine.ids.largest.Store(0) // another will be observed
		return false
	}
	return s.giveUp(a.n, hint&partitionMask)
}

// giveUp forgets the oldest ended ids of the partition's largest root as long as it has
// more than n.
func (p *partition) giveUp(n uint32, number uint64) (gave bool) {
	account := p.largestAccount()
	if account == 0 {
		p.engine.ids.largest.Store(0)
		return false
	}
	a := p.accounts.at(account)
	a.n++ // keeps the account
	for range maxGivenUp {
		if a.n-1 <= n || !p.forgetOldest(a) {
			break
		}
		gave = true
	}
	a.n--
	p.engine.ids.largest.Store(uint64(a.n)<<partitionShift | number)
	p.engine.ids.give(&p.idQuota)
	p.accounts.release(account)
	return gave
}

// largestAccount returns the account with the most ids, or 0.
func (p *partition) largestAccount() (largest uint32) {
	most := uint32(0)
	for account := p.accounts.next(0); account != 0; account = p.accounts.next(account) {
		if n := p.accounts.at(account).n; n > most {
			largest, most = account, n
		}
	}
	return largest
}

// forgetOldest removes the ended id of an account that is due first. It returns false if
// there is none. Reservations whose lease is over stay in a copy.
func (p *partition) forgetOldest(a *idAccount) bool {
	first, q := p.oldest(&a.checks), &a.checks
	other := p.oldest(&a.ended)
	if first.id == 0 || other.id != 0 && p.entries.at(other.id).due < p.entries.at(first.id).due {
		first, q = other, &a.ended
	}
	if first.id == 0 {
		return false
	}
	p.unlink(q, first)
	if entry := p.entries.at(first.id); entry.state() != idForgotten && entry.due > p.mono {
		p.stats.forgotten++
	}
	p.deleteEntry(first.id)
	return true
}
