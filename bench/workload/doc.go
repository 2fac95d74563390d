// SPDX-License-Identifier: Apache-2.0

// Package workload plans the calls of a run: whose they are, how large, which of
// them are LLM calls, and which are sent twice.
//
// A workload is written in a line of text ([Parse], [Spec.String]), each part of
// which is also a flag of the command:
//
//	keys=zipf:1.1x100k tiers=free=70,standard=25,enterprise=5 tokens=chat llm=30% retries=1%+100 seed=7
//
// Numbers may be written as 10k, 1M and 1_000. The parts:
//
//	keys     uniform:1M            as many keys, all alike
//	         zipf:1.1x100k         EXPONENTxKEYS: the i-th has a share like 1/i^EXPONENT,
//	                               for any exponent above 0, below 1 and at 1 too
//	         hot:acme/alice        one key
//	         orgs:100x1000         a tree, org-00/user-000; 100x10x1000 has teams, a
//	                               fourth number apps
//	         hot:90%:acme+uniform:10k
//	                               a mixture; what lacks a share has the rest
//	tiers    free=70,standard=25   of a hundred keys; a key keeps its tier
//	models   small=4,large=1       of five calls
//	tokens   fixed:900+100         input and output
//	         uniform:100-2000+50-400
//	         chat                  both from one row of the Azure trace
//	llm      30%                   that share is reserved, reported and settled; the
//	                               others are checks. With all that can be said:
//	         30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2
//	retries  1%                    that share is sent again, right after it
//	         1%+100                ... after 100 further calls
//	replay   10x                   the Azure trace, ten times as fast; it has keys,
//	                               tiers, tokens and times of its own, and its calls
//	                               are LLM calls unless llm says otherwise
//	         10x:users=200,orgs=20
//	prefix   r7-                   begins every key, so that runs do not share state
//	ids      r7-                   begins every request id
//	seed     7
//
// # The model of an LLM call
//
// The call waits for its first token for a time drawn evenly from ttft, then
// generates its output at a speed drawn evenly from speed (tokens per second) and
// kept: Hold = ttft + output / speed. Meanwhile it reports its progress as many
// times per second as reports says. What it reserves is a habit: with max=pow2 the
// next power of two, with max=exact what it will generate, and with a number that
// number; output that is longer is then cut, as a model does. A replay that is
// faster does not shorten the holds.
//
// # Repeatable
//
// Equal specs give equal calls. Every random number comes from the seed, by PCG and
// arithmetic of this package, so that other versions of Go draw the same ones; only
// zipf rests on the floating point of the processor, where another architecture may
// once in a great while draw the neighbour of a key. Each part draws from a
// sequence of its own: other tokens leave the keys as they are, and a larger share
// of LLM calls keeps those that were in the smaller one.
//
// # Retries
//
// The second call of a retry is the first one again, field by field, with its id.
// The limiter remembers the id of a check for 30 s: a retry that comes later than
// that is rightly charged again, so keep the calls between them few for the rate.
package workload
