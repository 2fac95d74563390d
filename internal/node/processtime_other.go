// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package node

import "time"

// processTime returns 0: the processor time of this process is unknown.
func processTime() time.Duration { return 0 }
