-- Writes a piece that never changes, if its author still leads. Its name is noted with it, so that it
-- can be found again when nobody needs it.
-- KEYS: stream, names, piece. ARGV: epoch, name, bytes.
-- Answers 'done' or 'deposed'.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last or string.match(last[1], '^%d+') ~= ARGV[1] then
  return 'deposed'
end
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('SET', KEYS[3], ARGV[3])
return 'done'
