-- The next number of a node's process: larger than any before, even if Redis has forgotten some.
-- KEYS: incarnation. ARGV: unix milliseconds.
local before = tonumber(redis.call('GET', KEYS[1]) or '0')
local next = string.format('%.0f', math.max(before + 1, tonumber(ARGV[1])))
redis.call('SET', KEYS[1], next)
return next
