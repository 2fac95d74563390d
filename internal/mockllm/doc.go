// SPDX-License-Identifier: Apache-2.0

// Package mockllm is a mock of OpenAI- and Anthropic-style model servers. It
// generates meaningless text at a configured speed and records the true usage of
// every call in a [Ledger], with which tests compare the charges.
//
// It answers POST /v1/chat/completions, /v1/completions, /v1/embeddings,
// /v1/responses, /v1/messages and /v1/messages/count_tokens, streamed and not,
// and GET /v1/models, /health and /readyz. A token is one word of the text.
// [Options] configure all calls, and headers override them for one call:
//
//	X-Mock-Input-Tokens: 120         instead of the count of the text
//	X-Mock-Cached-Tokens: 100        of the input, read from a cache
//	X-Mock-Cache-Write-Tokens: 10    of the input, written to a cache (messages)
//	X-Mock-Output-Tokens: 200        of each choice, unless max_tokens is less
//	X-Mock-Reasoning-Tokens: 50      of the output; generated first and not in the response
//	X-Mock-TTFT: 80ms                time to the first token
//	X-Mock-Speed: 40                 tokens per second of each choice; 0: no delay
//	X-Mock-Chunk-Tokens: 1           tokens in one chunk of a stream
//	X-Mock-Fail: 503                 respond with an error status, 400 to 599
//	X-Mock-Retry-After: 2            header of that response
//	X-Mock-Stall-After: 10           pause after this many tokens of each choice
//	X-Mock-Stall: 2s                 length of the pause; forever: until the caller disconnects
//	X-Mock-Disconnect-After: 10      close the connection after this many tokens
//	X-Mock-Error-After: 10           end a stream with an error after this many tokens
//	X-Mock-Usage: none               or wrong: double, zero, negative, overflow, parts, text
//	X-Mock-Dialect: beside           how usage is reported: plain, beside or relay
//	X-Mock-Seed: 7                   seed of the random choices; default: the number of the call
//	X-Mock-Label: any                label of the call in the ledger
//
// The first tool of a request is called, unless tool_choice is none or the last
// message is the result of a tool.
//
// Generation stops when the caller disconnects or a write fails. The [Ledger] has
// the generated and the written tokens of each call. GET /mock/ledger returns it, and
// DELETE /mock/ledger resets it.
package mockllm
