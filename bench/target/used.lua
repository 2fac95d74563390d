-- SPDX-License-Identifier: Apache-2.0
--
-- The usage of each limit of a key, rounded up, with the KEYS and ARGV of bucket.lua.
-- It changes nothing.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local at = tonumber(redis.call('HGET', KEYS[1], 'at')) or now
local list = {}
for i = 1, #ARGV / 3 do
  local amount, window = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1])
  local used = tonumber(redis.call('HGET', KEYS[1], 'u' .. i)) or 0
  used = used - amount * math.max(now - at, 0)
  list[i] = math.ceil(math.max(used, 0) / window)
end
return list
