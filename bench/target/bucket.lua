-- SPDX-License-Identifier: Apache-2.0
--
-- Token buckets of one key, all or nothing, by the clock of the server.
--
-- KEYS[1]  hash: at = time of the last charge in ms, u1, u2, … = usage of each limit
-- ARGV     for each limit: amount, window in milliseconds, cost
--
-- Returns 0 if all costs were charged. Otherwise it charges nothing and returns the
-- number of the first limit without room, or minus that number if the cost exceeds
-- its whole capacity.
--
-- Usage is stored multiplied by the window, so that each millisecond refills exactly
-- the amount and all numbers are integers. Amount times window is at most 2^52. The
-- refill after a long time can exceed 2^53 and be rounded; it then exceeds the usage.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local limits = #ARGV / 3
local fields = {'at'}
for i = 1, limits do fields[i + 1] = 'u' .. i end
local state = redis.call('HMGET', KEYS[1], unpack(fields))
local at = tonumber(state[1]) or now
if now < at then now = at end -- the clock went backwards
local write = {'at', string.format('%.0f', now)}
local full, ttl = 0, 0
for i = 1, limits do
  local amount, window, cost = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  if cost > amount then return -i end
  local used = (tonumber(state[i + 1]) or 0) - amount * (now - at)
  used = math.max(used, 0) + cost * window
  if full == 0 and used > amount * window then full = i end
  write[2 * i + 1] = 'u' .. i
  write[2 * i + 2] = string.format('%.0f', used)
  ttl = math.max(ttl, window)
end
if full > 0 then return full end
redis.call('HSET', KEYS[1], unpack(write))
redis.call('PEXPIRE', KEYS[1], ttl) -- a bucket with no usage needs no memory
return 0
