-- SPDX-License-Identifier: Apache-2.0
--
-- Token buckets of one key, all or nothing, by the clock of the server.
--
-- KEYS[1]  a hash: at, the time of the last charge, and what is used of each limit
-- ARGV     for each limit: amount, window in milliseconds, cost
--
-- Returns 0 if the costs were charged. Else it is the number of the first limit that
-- they would not fit in if it were empty, as a negative number, or of the first one
-- that they do not fit in now.
--
-- What is used is kept times the window, so that a millisecond gives back exactly
-- the amount and everything is whole. Amount times window is at most 2^52; only what is
-- given back after a long time may be beyond what a number tells apart, and then it is
-- all.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local limits = #ARGV / 3
local fields = {'at'}
for i = 1, limits do fields[i + 1] = 'u' .. i end
local state = redis.call('HMGET', KEYS[1], unpack(fields))
local at = tonumber(state[1]) or now
if now < at then now = at end -- the clock went back
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
redis.call('PEXPIRE', KEYS[1], ttl) -- an empty bucket needs no memory
return 0
