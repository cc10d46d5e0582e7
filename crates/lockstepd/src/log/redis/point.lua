-- Makes a snapshot count and trims the stream behind it, if its author still leads.
-- KEYS: stream, pointer. ARGV: epoch, index, id of the entry at index, pointer.
-- Answers 'done', 'deposed' or 'old'.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last or string.match(last[1], '^%d+') ~= ARGV[1] then
  return 'deposed'
end
local before = redis.call('HGET', KEYS[2], 'index')
if before and tonumber(before) >= tonumber(ARGV[2]) then
  return 'old'
end
redis.call('HSET', KEYS[2], 'index', ARGV[2], 'pointer', ARGV[4])
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[3])
return 'done'
