// SPDX-License-Identifier: Apache-2.0

//go:build !unix

// Package cputime reads the processor time of this process.
package cputime

import "time"

// Used returns 0: the processor time of this process is unknown.
func Used() time.Duration { return 0 }
