// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package bench

func readCPUUsage() cpuUsage { return cpuUsage{} }
