// SPDX-License-Identifier: Apache-2.0

// Package hotkeys finds the keys of a stream that are hit most often, and who hits them,
// in little memory.
//
// A [Sketch] is a SpaceSaving summary (Metwally, Agrawal, El Abbadi: Efficient computation
// of frequent and top-k elements in data streams, ICDT 2005). It counts as many keys as it
// has places. A new key takes the place of the one with the lowest count, which becomes the
// error of its own. The places are divided into sets of 8, and the hash of a key chooses
// the set, so that a hit reads one set only. Each set is a summary of its own.
//
// Counts decay: each second halves them, with their errors. So a rate is an average over
// the last few seconds.
//
// The rate of a listed key is at least Rate and at most Rate + Error. A key that is not
// listed has at most [Sketch.Missing], which is at most 1/8 of the hits of its set and four
// more. Rounding adds less than an eighth of a hit to both bounds. A sketch begins with one
// set and doubles its sets while they have more than 200 hits per second each, up to 64 of
// them. Of the bound that it had before, half is left after each second. A place takes some 200
// bytes and the key.
package hotkeys
