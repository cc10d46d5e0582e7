-- Writes a piece that never changes, if its author still leads. Its name is noted with it, so that it
-- can be found again when nobody needs it.
-- KEYS: stream, names, piece. ARGV: epoch, name, bytes, and how many of a hundred parts of the memory may
-- be in use, 0 for all of them.
-- Answers 'done', 'deposed', or 'full' when the rest of the memory is kept for entries.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last or string.match(last[1], '^%d+') ~= ARGV[1] then
  return 'deposed'
end
local percent = tonumber(ARGV[4])
if percent > 0 then
  local info = redis.call('INFO', 'memory')
  local used = tonumber(string.match(info, 'used_memory:(%d+)'))
  local most = tonumber(string.match(info, 'maxmemory:(%d+)'))
  if used and most and most > 0 and (used + #ARGV[3]) * 100 >= most * percent then
    return 'full'
  end
end
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('SET', KEYS[3], ARGV[3])
return 'done'
