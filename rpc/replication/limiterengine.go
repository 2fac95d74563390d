// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"sync"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// LimiterEngine makes an [Engine] of a limiter's. Zone loads the time zones that limits
// name, as time.LoadLocation does.
func LimiterEngine(e *limiter.Engine, zone func(string) (*time.Location, error)) Engine {
	readers := &sync.Pool{New: func() any { return e.NewReader(zone) }}
	return limiterEngine{e, zone, readers}
}

type limiterEngine struct {
	*limiter.Engine
	zone    func(string) (*time.Location, error)
	readers *sync.Pool // of *limiter.StateReader
}

// ReadFull implements Engine.
func (e limiterEngine) ReadFull(now limiter.Time, partition int, snapshot []byte) (func(limiter.Time) error, error) {
	c, err := e.Engine.ReadFull(now, partition, snapshot, e.zone)
	if err != nil {
		return nil, err
	}
	return c.Apply, nil
}

// NewChanges implements Engine.
func (e limiterEngine) NewChanges() Changes { return &limiterChanges{engine: e.Engine} }

// ReadChanges implements Engine.
func (e limiterEngine) ReadChanges(message []byte) (ChangeReader, error) {
	r := e.readers.Get().(*limiter.StateReader)
	if err := r.Reset(message); err != nil {
		return nil, err
	}
	return limiterReader{e.Engine, e.readers, r}, nil
}

type limiterChanges struct {
	limiter.StateWriter
	engine *limiter.Engine
}

// Append implements Changes.
func (c *limiterChanges) Append(now limiter.Time, partition int, after uint64) (through uint64, ok bool) {
	return c.engine.AppendChanges(now, partition, after, &c.StateWriter)
}

type limiterReader struct {
	engine  *limiter.Engine
	readers *sync.Pool
	*limiter.StateReader
}

// Apply implements ChangeReader.
func (r limiterReader) Apply(now limiter.Time) error { return r.engine.Apply(now, r.StateReader) }

// Close implements ChangeReader.
func (r limiterReader) Close() { r.readers.Put(r.StateReader) }
