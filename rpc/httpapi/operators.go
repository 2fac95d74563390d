// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	grpcpeer "google.golang.org/grpc/peer"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/pb"
)

// adminRoutes adds the paths of operators.
func (a *api) adminRoutes() {
	a.routes["/v1/admin/key"] = route{http.MethodGet, a.inspectKey}
	a.routes["/v1/admin/reset"] = route{http.MethodPost, a.resetLimits}
	a.routes["/v1/admin/grant"] = route{http.MethodPost, a.grantCredit}
	a.routes["/v1/admin/end"] = route{http.MethodPost, a.endReservation}
	a.routes["/v1/admin/reload"] = route{http.MethodPost, a.reloadFiles}
	a.routes["/v1/admin/drain"] = route{http.MethodPost, a.drainNode}
}

// withRemote returns the context of a request with its remote address as that of a gRPC call,
// by which the service decides who may administer the node.
func withRemote(r *http.Request) context.Context {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.Context()
	}
	return grpcpeer.NewContext(r.Context(), &grpcpeer.Peer{Addr: net.TCPAddrFromAddrPort(at)})
}

// KeyState is what operators see of a key. See [pb.InspectKeyResponse].
type KeyState struct {
	Key           string               `json:"key"`
	Tier          string               `json:"tier"`
	Owner         string               `json:"owner"`
	Heir          string               `json:"heir,omitempty"`
	Partition     int32                `json:"partition"`
	Term          uint64               `json:"term"`
	PolicyVersion string               `json:"policy_version"`
	Limits        []KeyLimit           `json:"limits"`
	Running       int64                `json:"running"`
	Reservations  []RunningReservation `json:"reservations"`
	Slices        []LentSlice          `json:"slices"`
	RequestIDs    int64                `json:"request_ids"`
}

// KeyLimit is one limit of a key.
type KeyLimit struct {
	Name       string `json:"name"`
	Dimension  string `json:"dimension"`
	Scope      string `json:"scope"`
	Algorithm  string `json:"algorithm"`
	Limit      int64  `json:"limit"`
	Capacity   int64  `json:"capacity"`
	Used       int64  `json:"used"`
	Remaining  int64  `json:"remaining"`
	Debt       int64  `json:"debt,omitempty"`
	Lent       int64  `json:"lent,omitempty"`
	Credit     int64  `json:"credit,omitempty"`
	CreditEnds string `json:"credit_ends,omitempty"`
	ResetAt    string `json:"reset_at,omitempty"`
	Shadow     bool   `json:"shadow,omitempty"`
	PerModel   bool   `json:"per_model,omitempty"`
}

// RunningReservation is a reservation that runs.
type RunningReservation struct {
	Ref          string              `json:"ref"`
	Key          string              `json:"key"`
	Tier         string              `json:"tier"`
	SinceSeconds float64             `json:"since_seconds"` // its beginning or its last progress
	LeaseSeconds float64             `json:"lease_seconds"` // left
	OutputTokens int64               `json:"output_tokens"`
	Charges      []ReservationCharge `json:"charges"`
}

// ReservationCharge is what a reservation is charged of a limit.
type ReservationCharge struct {
	Limit     string `json:"limit"`
	Dimension string `json:"dimension"`
	Scope     string `json:"scope"`
	Charged   int64  `json:"charged"`
}

// LentSlice is a slice that is lent.
type LentSlice struct {
	Key          string  `json:"key"`
	Holder       string  `json:"holder"`
	Member       bool    `json:"member"`
	Calls        int64   `json:"calls"`
	LeaseSeconds float64 `json:"lease_seconds"`
}

func seconds(nanos int64) float64 {
	return time.Duration(nanos).Round(time.Millisecond).Seconds()
}

func unixTime(nanos int64) string {
	if nanos == 0 {
		return ""
	}
	return time.Unix(0, nanos).UTC().Format(time.RFC3339)
}

// keyStateOf converts k to the form of JSON.
func keyStateOf(k *pb.InspectKeyResponse) KeyState {
	s := KeyState{
		Key: k.GetKey(), Tier: k.GetTier(), Owner: k.GetOwner(), Heir: k.GetHeir(), Partition: k.GetPartition(), Term: k.GetTerm(), PolicyVersion: k.GetPolicyVersion(),
		Running: k.GetRunning(), RequestIDs: k.GetRequestIds(),
		Limits: []KeyLimit{}, Reservations: []RunningReservation{}, Slices: []LentSlice{},
	}
	for _, l := range k.GetLimits() {
		s.Limits = append(s.Limits, KeyLimit{
			Name: l.GetName(), Dimension: l.GetDimension(), Scope: l.GetScope(), Algorithm: l.GetAlgorithm(), Limit: l.GetLimit(), Capacity: l.GetCapacity(),
			Used: l.GetUsed(), Remaining: l.GetRemaining(), Debt: l.GetDebt(), Lent: l.GetLent(), Credit: l.GetCredit(),
			CreditEnds: unixTime(l.GetCreditEnds()), ResetAt: unixTime(l.GetResetAt()), Shadow: l.GetShadow(), PerModel: l.GetPerModel(),
		})
	}
	for _, r := range k.GetReservations() {
		running := RunningReservation{
			Ref: r.GetRef(), Key: r.GetKey(), Tier: r.GetTier(), SinceSeconds: seconds(r.GetSinceNanos()), LeaseSeconds: seconds(r.GetLeftNanos()),
			OutputTokens: r.GetOutputTokens(), Charges: []ReservationCharge{},
		}
		for _, c := range r.GetCharges() {
			running.Charges = append(running.Charges, ReservationCharge{c.GetLimit(), c.GetDimension(), c.GetScope(), c.GetCharged()})
		}
		s.Reservations = append(s.Reservations, running)
	}
	for _, l := range k.GetSlices() {
		s.Slices = append(s.Slices, LentSlice{l.GetKey(), l.GetHolder(), l.GetMember(), l.GetCalls(), seconds(l.GetLeftNanos())})
	}
	return s
}

func (a *api) inspectKey(w http.ResponseWriter, r *http.Request) error {
	var q pb.InspectKeyRequest
	var most string
	if err := readQuery(r.URL.RawQuery, []field{{"key", &q.Key}, {"tier", &q.Tier}, {"model", &q.Model}, {"reservations", &most}}); err != nil {
		return err
	}
	if most != "" {
		n, err := strconv.ParseInt(most, 10, 32)
		if err != nil {
			return invalid("reservations", "must be a whole number, got "+text.Quote(most))
		}
		q.Reservations = int32(n)
	}
	k, err := a.admin.InspectKey(withRemote(r), &q)
	if err != nil {
		return err
	}
	a.write(w, http.StatusOK, keyStateOf(k))
	return nil
}

// Changed is the answer to a change by an operator. See [pb.Change].
type Changed struct {
	RequestID string         `json:"request_id"`
	Replayed  bool           `json:"replayed,omitempty"`
	Limits    []ChangedLimit `json:"limits,omitempty"`
	Status    string         `json:"status,omitempty"`
	Owner     string         `json:"owner"`
}

// ChangedLimit is what changed in one limit.
type ChangedLimit struct {
	Name       string `json:"name"`
	Dimension  string `json:"dimension"`
	Scope      string `json:"scope"`
	PerModel   bool   `json:"per_model,omitempty"`
	Before     int64  `json:"before"`
	After      int64  `json:"after"`
	CreditEnds string `json:"credit_ends,omitempty"`
}

func (a *api) writeChange(w http.ResponseWriter, c *pb.Change) {
	j := Changed{RequestID: c.GetRequestId(), Replayed: c.GetReplayed(), Status: c.GetStatus(), Owner: c.GetOwner()}
	for _, l := range c.GetLimits() {
		j.Limits = append(j.Limits, ChangedLimit{
			Name: l.GetName(), Dimension: l.GetDimension(), Scope: l.GetScope(), PerModel: l.GetPerModel(), Before: l.GetBefore(), After: l.GetAfter(),
			CreditEnds: unixTime(l.GetCreditEnds()),
		})
	}
	a.write(w, http.StatusOK, j)
}

func (a *api) resetLimits(w http.ResponseWriter, r *http.Request) error {
	var q pb.ResetLimitsRequest
	if err := a.readBody(w, r, []field{{"key", &q.Key}, {"tier", &q.Tier}, {"model", &q.Model}, {"limit", &q.Limit}, {"request_id", &q.RequestId}}); err != nil {
		return err
	}
	c, err := a.admin.ResetLimits(withRemote(r), &q)
	if err != nil {
		return err
	}
	a.writeChange(w, c)
	return nil
}

func (a *api) grantCredit(w http.ResponseWriter, r *http.Request) error {
	var q pb.GrantCreditRequest
	if err := a.readBody(w, r, []field{
		{"key", &q.Key}, {"tier", &q.Tier}, {"model", &q.Model}, {"limit", &q.Limit}, {"amount", &q.Amount}, {"lasts_seconds", &q.LastsSeconds}, {"request_id", &q.RequestId},
	}); err != nil {
		return err
	}
	c, err := a.admin.GrantCredit(withRemote(r), &q)
	if err != nil {
		return err
	}
	a.writeChange(w, c)
	return nil
}

func (a *api) endReservation(w http.ResponseWriter, r *http.Request) error {
	var q pb.EndReservationRequest
	var charge string
	if err := a.readBody(w, r, []field{{"key", &q.Key}, {"reservation", &q.Reservation}, {"charge", &charge}, {"request_id", &q.RequestId}}); err != nil {
		return err
	}
	switch charge {
	case "", "progress":
		q.Charge = pb.EndCharge_END_CHARGE_PROGRESS
	case "estimate":
		q.Charge = pb.EndCharge_END_CHARGE_ESTIMATE
	case "nothing":
		q.Charge = pb.EndCharge_END_CHARGE_NOTHING
	default:
		return invalid("charge", "must be progress, estimate or nothing, got "+text.Quote(charge))
	}
	c, err := a.admin.EndReservation(withRemote(r), &q)
	if err != nil {
		return err
	}
	a.writeChange(w, c)
	return nil
}

// Reloaded is the answer to an order to read all files again.
type Reloaded struct {
	RequestID    string   `json:"request_id"`
	Member       string   `json:"member"`
	PolicyDigest string   `json:"policy_digest"`
	Problems     []string `json:"problems"`
}

func (a *api) reloadFiles(w http.ResponseWriter, r *http.Request) error {
	var q pb.ReloadRequest
	if err := a.readBody(w, r, []field{{"request_id", &q.RequestId}}); err != nil {
		return err
	}
	done, err := a.admin.Reload(withRemote(r), &q)
	if err != nil {
		return err
	}
	problems := done.GetProblems()
	if problems == nil {
		problems = []string{}
	}
	a.write(w, http.StatusOK, Reloaded{done.GetRequestId(), done.GetMember(), done.GetPolicyDigest(), problems})
	return nil
}

// Drained is the answer to an order to drain the node.
type Drained struct {
	RequestID string `json:"request_id"`
	Member    string `json:"member"`
	Drained   bool   `json:"drained"`
	Message   string `json:"message"`
}

func (a *api) drainNode(w http.ResponseWriter, r *http.Request) error {
	var q pb.DrainRequest
	if err := a.readBody(w, r, []field{{"request_id", &q.RequestId}}); err != nil {
		return err
	}
	d, err := a.admin.Drain(withRemote(r), &q)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if !d.GetDrained() {
		status = http.StatusAccepted
	}
	a.write(w, status, Drained{d.GetRequestId(), d.GetMember(), d.GetDrained(), d.GetMessage()})
	return nil
}
