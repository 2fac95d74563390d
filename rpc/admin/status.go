// SPDX-License-Identifier: Apache-2.0

package admin

// AuditStatus is the state of the audit log, for people.
type AuditStatus struct {
	// Lost lines could not be written since the start. LastError says why the last one could
	// not be.
	Lost      int64  `json:"lost"`
	LastError string `json:"last_error,omitempty"`
	// Omitted are refused attempts that were too many to be written, since the start.
	Omitted int64 `json:"omitted"`
}

// AuditStatus returns the state of the audit log.
func (s *Service) AuditStatus() AuditStatus {
	s.losses.Lock()
	defer s.losses.Unlock()
	return s.losses.AuditStatus
}
