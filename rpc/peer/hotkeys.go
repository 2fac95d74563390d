// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	grpcpeer "google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	defaultHotKeys = 20
	maxHotKeys     = 1000
	// maxListed is how many askers and how many holders a key is listed with.
	maxListed = 8
)

// HotKeys implements pb.RateLimiterServer. It asks all members for their own, unless the
// caller asks for those of this member alone.
func (r *Router) HotKeys(ctx context.Context, q *pb.HotKeysRequest) (*pb.HotKeysResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, grpcstatus.FromContextError(err).Err()
	}
	limit := int(q.GetLimit())
	if limit < 0 || limit > maxHotKeys {
		return nil, wrongField("limit", strconv.Itoa(limit), fmt.Sprintf("must be from 0 to %d", maxHotKeys))
	}
	limit = cmp.Or(limit, defaultHotKeys)
	keys, rate := r.OwnHotKeys(limit)
	found := &pb.HotKeysResponse{Keys: keys, Members: []*pb.MemberRate{rate}, Waiting: r.OwnWaitingLimits()}
	if q.GetAlone() {
		return found, nil
	}
	r.askHotKeys(ctx, limit, found)
	found.Keys, found.Waiting = hottest(found.GetKeys(), limit), longestLines(found.GetWaiting())
	slices.SortFunc(found.Members, func(a, b *pb.MemberRate) int { return strings.Compare(a.GetMember(), b.GetMember()) })
	slices.Sort(found.Unreachable)
	return found, nil
}

// SampleTraffic is [server.Service.SampleTraffic] for what this member decides.
func (r *Router) SampleTraffic() { r.local.SampleTraffic() }

// OwnHotKeys lists up to n keys of those that this member owns with the most calls: those that
// it decides, and those that are decided from slices which it has lent.
func (r *Router) OwnHotKeys(n int) ([]*pb.HotKey, *pb.MemberRate) {
	lent := r.lender.rates()
	counted := r.local.HottestKeys(n + len(lent)) // each key with slices may take the place of another
	member := &pb.MemberRate{Member: r.name, Rate: counted.Rate, Sampling: int32(counted.Weight), Waiting: waitingCalls(r.local.Waiting()), Traffic: r.local.Traffic()}
	for _, l := range lent {
		member.SliceRate += float64(l.rate)
	}
	keys := make([]*pb.HotKey, 0, len(counted.Keys)+len(lent))
	for i := range counted.Keys {
		from := &counted.Keys[i]
		askers := make(map[uint32]float64, len(from.Askers))
		for _, a := range from.Askers {
			askers[a.ID] += a.Rate
		}
		key := &pb.HotKey{Key: from.Key, Owner: r.name, Rate: from.Rate, RateError: from.Error, Tier: from.Tier, Model: from.Model}
		r.addAskers(key, askers, lent[from.Key])
		delete(lent, from.Key)
		keys = append(keys, key)
	}
	for name, l := range lent { // no call of them was counted lately
		key := &pb.HotKey{Key: name, Owner: r.name}
		r.addAskers(key, map[uint32]float64{}, l)
		keys = append(keys, key)
	}
	keys = hottest(keys, n)
	for _, key := range keys {
		if lent[key.GetKey()] == nil { // else its tier is not known
			key.Limit = r.local.NearestLimit(key)
		}
	}
	return keys, member
}

// addAskers adds those who ask for a key, by the rates of the calls that were decided here,
// and what is lent of it, if it is not nil.
func (r *Router) addAskers(key *pb.HotKey, askers map[uint32]float64, lent *lentRates) {
	if lent != nil {
		key.Rate += float64(lent.rate)
		key.SliceRate, key.Slices = float64(lent.rate), int32(lent.slices)
		for id, rate := range lent.decided {
			askers[id] += float64(rate)
		}
		for i := range lent.holders[:min(maxListed, len(lent.holders))] {
			h := &lent.holders[i]
			holder := &pb.SliceHolder{Name: &pb.SliceHolder_Client{Client: h.text}, Slices: int32(h.slices), Rate: float64(h.rate)}
			if h.member {
				holder.Name = &pb.SliceHolder_Member{Member: h.text}
			}
			key.Holders = append(key.Holders, holder)
		}
	}
	for id, rate := range askers {
		if named := r.asker(id); named != nil {
			named.Rate = rate
			key.Askers = append(key.Askers, named)
		}
	}
	slices.SortFunc(key.Askers, func(a, b *pb.Asker) int {
		return cmp.Or(cmp.Compare(b.GetRate(), a.GetRate()), cmp.Compare(a.GetMember(), b.GetMember()), cmp.Compare(a.GetClient(), b.GetClient()))
	})
	key.Askers = key.GetAskers()[:min(maxListed, len(key.GetAskers()))]
}

// hottest sorts keys by their rates and returns the first n.
func hottest(keys []*pb.HotKey, n int) []*pb.HotKey {
	slices.SortFunc(keys, func(a, b *pb.HotKey) int {
		return cmp.Or(cmp.Compare(b.GetRate(), a.GetRate()), strings.Compare(a.GetKey(), b.GetKey()))
	})
	return keys[:min(n, len(keys))]
}

// askHotKeys adds what all other members answer.
func (r *Router) askHotKeys(ctx context.Context, limit int, found *pb.HotKeysResponse) {
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, m := range r.table.Load().all() {
		if m.peer == nil {
			continue
		}
		asking.Go(func() {
			answer, err := r.ask(ctx, m, &pb.PeerMessage{Message: &pb.PeerMessage_HotKeys{HotKeys: &pb.HotKeysRequest{Limit: int32(limit), Alone: true}}})
			said := answer.GetHotKeys()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				found.Unreachable = append(found.Unreachable, m.Name)
				return
			}
			found.Keys = append(found.Keys, said.GetKeys()...)
			found.Members = append(found.Members, said.GetMembers()...)
			found.Waiting = append(found.Waiting, said.GetWaiting()...)
		})
	}
	asking.Wait()
}

// asker returns who has the number id in [call.Call].Asker.
func (r *Router) asker(id uint32) *pb.Asker {
	if id == 0 {
		return &pb.Asker{Name: &pb.Asker_Member{Member: r.name}}
	}
	switch name, known := r.askers.name(id); {
	case !known:
		return nil
	case name.member:
		return &pb.Asker{Name: &pb.Asker_Member{Member: name.text}}
	default:
		return &pb.Asker{Name: &pb.Asker_Client{Client: name.text}}
	}
}

// askerName is the name of a member, or the address of a client.
type askerName struct {
	text   string
	member bool
}

// clientName returns the address of the client of a stream, without the port, because a
// client may have many connections.
func clientName(ctx context.Context) askerName {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return askerName{text: "unknown"}
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		host = p.Addr.String() // of a Unix socket
	}
	return askerName{text: host}
}

// askers numbers those who have streams to this member, from 1 on. Its zero value is
// empty. It is safe for concurrent use.
type askers struct {
	mu    sync.Mutex
	last  uint32
	ids   map[askerName]uint32
	known map[uint32]*knownAsker
}

type knownAsker struct {
	askerName
	streams int
}

// begin returns the number of an asker with one more stream.
func (a *askers) begin(name askerName) uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := a.ids[name]
	if id == 0 {
		if a.ids == nil {
			a.ids, a.known = map[askerName]uint32{}, map[uint32]*knownAsker{}
		}
		for id == 0 || a.known[id] != nil {
			a.last++ // not the number of one that has just left
			id = a.last
		}
		a.ids[name], a.known[id] = id, &knownAsker{askerName: name}
	}
	a.known[id].streams++
	return id
}

// end ends a stream of an asker.
func (a *askers) end(id uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := a.known[id]
	if known.streams--; known.streams == 0 {
		delete(a.ids, known.askerName)
		delete(a.known, id)
	}
}

// name returns the name of an asker that has a stream.
func (a *askers) name(id uint32) (askerName, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := a.known[id]
	if known == nil {
		return askerName{}, false
	}
	return known.askerName, true
}
