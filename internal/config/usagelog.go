// SPDX-License-Identifier: Apache-2.0

package config

// leastUsageLogSize is the least size of a usage log, so that no file is for a few lines.
const leastUsageLogSize = 1 << 20

// validateUsageLog checks the settings of the usage log.
func (c *Config) validateUsageLog(p *problems) {
	if n := c.UsageLogSize; n != 0 && n < leastUsageLogSize {
		p.add("usage_log_size", "must be 0 or at least %d bytes, got %d", leastUsageLogSize, n)
	}
	if c.UsageLogKeep < 0 {
		p.add("usage_log_keep", "must not be negative, got %d", c.UsageLogKeep)
	}
}
