// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// splitAddress returns the host of an address in the form host:port.
func splitAddress(address string) (host string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("must be host:port, got %q", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("port must be between 0 and 65535, got %q", address)
	}
	return host, nil
}

// SplitAdvertise splits host or host:port. The port is 0 if there is none.
func SplitAdvertise(address string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		host, text = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"), "0"
		if strings.Contains(host, ":") && !isIP(host) {
			return "", 0, fmt.Errorf("must be host or host:port, got %q", address)
		}
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port must be between 0 and 65535, got %q", address)
	}
	if host == "" || isUnspecified(host) {
		return "", 0, fmt.Errorf("must name a host that other members can reach, got %q", address)
	}
	return host, uint16(n), nil
}

// seedHost returns the host of a member to join, given as host or host:port.
func seedHost(seed string) (host string, err error) {
	host, port, err := SplitAdvertise(seed)
	if err != nil {
		return "", err
	}
	if port == 0 && strings.HasSuffix(seed, ":0") && !isIP(seed) {
		return "", fmt.Errorf("port must be between 1 and 65535, got %q", seed)
	}
	return host, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// isUnspecified reports whether host means all addresses of the machine.
func isUnspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Unmap().IsUnspecified()
}
