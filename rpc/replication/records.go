// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"fmt"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// Records returns a limiter's engine as an [Engine].
func Records(e *limiter.Engine) Engine { return records{e} }

type records struct{ *limiter.Engine }

// Restore implements Engine.
func (r records) Restore(now limiter.Time, partition int, data []byte) error {
	return r.ApplyFull(now, partition, data, time.LoadLocation)
}

// NewChanges implements Engine.
func (r records) NewChanges() Changes { return &changes{engine: r.Engine} }

// ReadChanges implements Engine.
func (r records) ReadChanges(data []byte) (ChangeReader, error) {
	reader, err := r.Engine.ReadChanges(data, time.LoadLocation)
	if err != nil {
		return nil, err
	}
	return changeReader{r.Engine, reader}, nil
}

type changes struct {
	engine *limiter.Engine
	writer limiter.StateWriter
}

// Append implements Changes.
func (c *changes) Append(now limiter.Time, partition int, after uint64) (through uint64, ok bool) {
	return c.engine.AppendChanges(now, partition, after, &c.writer)
}

// Bytes implements Changes.
func (c *changes) Bytes() []byte { return c.writer.Message() }

// Len implements Changes.
func (c *changes) Len() int { return c.writer.Len() }

// Reset implements Changes.
func (c *changes) Reset() { c.writer.Reset() }

type changeReader struct {
	engine *limiter.Engine
	reader *limiter.StateReader
}

// Apply implements ChangeReader. Changes before these that were not to be applied are
// skipped.
func (c changeReader) Apply(now limiter.Time, partition int, through uint64) error {
	for c.reader.Next() {
		if p, _, last := c.reader.Section(); p == partition && last == through {
			return c.engine.Apply(now, c.reader)
		}
	}
	if err := c.reader.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the message has no changes of partition %d through %d", partition, through)
}
