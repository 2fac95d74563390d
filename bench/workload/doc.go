// SPDX-License-Identifier: Apache-2.0

// Package workload plans the calls of a run: their keys, sizes and tiers, which of
// them are LLM calls, and which are retried.
//
// A workload is specified by a line of text ([Parse], [Spec.String]). Each part of it
// is also a flag of the bench command:
//
//	keys=zipf:1.1x100k tiers=free=70,standard=25,enterprise=5 tokens=chat llm=30% retries=1%+100 seed=7
//
// Numbers may be written as 10k, 1M and 1_000. The parts:
//
//	keys     uniform:1M            a million keys, equally frequent
//	         zipf:1.1x100k         EXPONENTxKEYS: the i-th key has a share proportional to
//	                               1/i^EXPONENT; the exponent is above 0
//	         hot:acme/alice        one key
//	         orgs:100x1000         a tree, org-00/user-000; 100x10x1000 has teams, and a
//	                               fourth number apps
//	         hot:90%:acme+uniform:10k
//	                               a mixture; the part without a share gets the rest
//	tiers    free=70,standard=25   weights; a key always has the same tier
//	models   small=4,large=1       weights
//	tokens   fixed:900+100         input and output
//	         uniform:100-2000+50-400
//	         chat                  input and output from one row of the Azure trace
//	llm      30%                   share of LLM calls (reserve, progress, settle); the
//	                               others are checks. With all settings:
//	         30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2
//	retries  1%                    share of calls that are sent again at once
//	         1%+100                ... after 100 further calls
//	replay   10x                   the Azure trace, ten times as fast; it has its own
//	                               keys, tiers, tokens and times, and all its calls are
//	                               LLM calls unless llm is given
//	         10x:users=200,orgs=20
//	prefix   r7-                   prefix of every key, so that runs do not share state
//	ids      r7-                   prefix of every request id
//	seed     7
//
// # The model of an LLM call
//
// A call waits for its first token for a time drawn uniformly from ttft, then
// generates its output at a constant speed drawn uniformly from speed (tokens per
// second), so Duration = ttft + output / speed. Meanwhile it reports its progress
// reports times per second. With max=pow2 it reserves the next power of two of its
// output, with max=exact its output, and with a number that number, which then also
// cuts its output. A faster replay does not shorten calls.
//
// # Reproducibility
//
// Equal specs give equal calls. All random numbers come from the seed, through PCG and
// arithmetic of this package, so they do not depend on the version of Go. Only zipf
// uses floating point, where another architecture may rarely draw a neighbouring key.
// Each part draws from its own sequence: other tokens do not change the keys, and a
// larger share of LLM calls includes those of a smaller share.
//
// # Retries
//
// A retry is a copy of the first call, including its id. A limiter remembers the id
// of a check for 30 s and charges a later retry again, so keep the number of calls
// between them small for the rate.
package workload
