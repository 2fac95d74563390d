// SPDX-License-Identifier: Apache-2.0

package bench

import "errors"

// ErrNoReservations says that the target knows checks only.
var ErrNoReservations = errors.New("the target has no reservations")
