// SPDX-License-Identifier: Apache-2.0

// Package mockllm is a model server without a model: it speaks as OpenAI's and
// Anthropic's do, at a speed that it is told, and knows what it really did. Tests
// compare with that what was charged.
//
// It answers POST /v1/chat/completions, /v1/completions, /v1/embeddings,
// /v1/responses, /v1/messages and /v1/messages/count_tokens, streamed and not,
// and GET /v1/models, /health and /readyz. A token is one word of the text. How many there
// are comes from [Options], and for one call from its headers:
//
//	X-Mock-Input-Tokens: 120         instead of counting the text
//	X-Mock-Cached-Tokens: 100        of the input, read from a cache
//	X-Mock-Cache-Write-Tokens: 10    of the input, written to a cache (messages)
//	X-Mock-Output-Tokens: 200        of each choice, unless max_tokens cuts it
//	X-Mock-Reasoning-Tokens: 50      of the output, generated first, and not shown
//	X-Mock-TTFT: 80ms                until the first token
//	X-Mock-Speed: 40                 tokens per second of each choice; 0: at once
//	X-Mock-Chunk-Tokens: 1           tokens in one piece of a stream
//	X-Mock-Fail: 503                 refuse: any status from 400 to 599
//	X-Mock-Retry-After: 2            with it
//	X-Mock-Stall-After: 10           stand still after so many tokens of each choice
//	X-Mock-Stall: 2s                 how long, or forever: until the caller leaves
//	X-Mock-Disconnect-After: 10      break the connection after so many
//	X-Mock-Error-After: 10           end a stream with an error after so many
//	X-Mock-Usage: none               or a lie: double, zero, negative, overflow, parts, text
//	X-Mock-Seed: 7                   what chance decides; without it the number of the call
//	X-Mock-Label: any                stands in the ledger
//
// Tools that are offered are called, unless tool_choice is none or the last
// message is the result of a tool.
//
// It stops generating when the caller leaves, and at the latest when the
// connection takes no more. The [Ledger] has each call with the tokens that were
// generated and those that were written to the connection until then, also at
// GET /mock/ledger.
package mockllm
