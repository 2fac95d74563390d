// SPDX-License-Identifier: Apache-2.0

package bench

import "errors"

// ErrNoReservations is returned by targets that support checks only.
var ErrNoReservations = errors.New("the target has no reservations")
