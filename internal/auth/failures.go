// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Reason is why a call was refused, as the metric names it.
type Reason int

// The reasons.
const (
	Missing            Reason = iota // no credentials
	Malformed                        // not a bearer token, or too long
	UnknownToken                     // also one that was revoked
	InvalidJWT                       // signature, issuer, audience, or claims of no caller
	ExpiredJWT                       //
	UnknownCertificate               // verified, but of no caller
	WrongScope                       // the caller lacks the scope
	WrongRoot                        // the caller lacks the root
	TooMany                          // the address has had too many of the first six
	PeerOff                          // a member without peer credentials
	reasons
)

func (r Reason) String() string {
	return [...]string{"missing", "malformed", "unknown_token", "invalid_jwt", "expired_jwt", "unknown_certificate", "scope", "root", "too_many", "peer"}[r]
}

const (
	// maxFailures is how many calls without valid credentials an address may make in a
	// minute before they are refused as too many.
	maxFailures = 60
	// window is the minute.
	window = time.Minute
	// Addresses are counted in shards, each with a lock and a bound.
	shards       = 64
	maxPerShard  = 64 // 4,096 addresses in all
	suspectJWTs  = 50 // new JWTs per second that are verified for addresses with too many failures
	suspectEvery = time.Second / suspectJWTs
)

// failures counts refused calls, by reason, and those without valid credentials by address.
// Its memory is bounded: when a shard is full, the address whose minute began first is
// forgotten. A nil failures counts nothing.
type failures struct {
	counters [reasons]prometheus.Counter
	seed     maphash.Seed
	shards   [shards]shard
	now      func() time.Time

	mu struct {
		sync.Mutex
		nextSuspect time.Time // when the next JWT of a suspect may be verified
	}
}

type shard struct {
	sync.Mutex
	addresses map[netip.Addr]minute
}

// minute is how many failures an address had since begin.
type minute struct {
	begin time.Time
	n     int
}

func newFailures(reg prometheus.Registerer, now func() time.Time) *failures {
	f := &failures{seed: maphash.MakeSeed(), now: now}
	vec := promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_auth_failures_total",
		Help: "Calls, streams and items refused because of their credentials, scope or root, by reason. Nothing was charged.",
	}, []string{"reason"})
	for r := range reasons {
		f.counters[r] = vec.WithLabelValues(r.String())
	}
	for i := range f.shards {
		f.shards[i].addresses = map[netip.Addr]minute{}
	}
	return f
}

func (f *failures) add(r Reason) {
	if f != nil {
		f.counters[r].Inc()
	}
}

func (f *failures) shard(a netip.Addr) *shard {
	return &f.shards[maphash.Comparable(f.seed, a)%shards]
}

// fail counts a call without valid credentials. It returns how long the address has to wait
// if it has had too many, else 0.
func (f *failures) fail(a netip.Addr) (wait time.Duration) {
	now, s := f.now(), f.shard(a)
	s.Lock()
	defer s.Unlock()
	m, known := s.addresses[a]
	if !known && len(s.addresses) >= maxPerShard {
		s.forgetOldest()
	}
	if now.Sub(m.begin) >= window {
		m = minute{begin: now}
	}
	m.n++
	s.addresses[a] = m
	return m.wait(now)
}

// forgetOldest makes room in a full shard. The caller holds its lock.
func (s *shard) forgetOldest() {
	var oldest netip.Addr
	var begin time.Time
	for a, m := range s.addresses {
		if begin.IsZero() || m.begin.Before(begin) {
			oldest, begin = a, m.begin
		}
	}
	delete(s.addresses, oldest)
}

// wait returns how long the address has to wait at now, 0 if not.
func (m minute) wait(now time.Time) time.Duration {
	if m.n <= maxFailures || now.Sub(m.begin) >= window {
		return 0
	}
	return window - now.Sub(m.begin)
}

// suspect returns how long an address has to wait, because it has had too many failures.
func (f *failures) suspect(a netip.Addr) time.Duration {
	s := f.shard(a)
	s.Lock()
	defer s.Unlock()
	return s.addresses[a].wait(f.now())
}

// mayVerify reports whether a JWT that was not seen before is verified, though its address
// has had too many failures. So one valid caller among them passes, soon, and the others
// cost little.
func (f *failures) mayVerify() bool {
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Before(f.mu.nextSuspect) {
		return false
	}
	f.mu.nextSuspect = now.Add(suspectEvery)
	return true
}
