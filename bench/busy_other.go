// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package bench

func cpuOfAll() cpuUse { return cpuUse{} }
