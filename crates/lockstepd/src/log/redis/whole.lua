-- Whether chunks are there, and as long as they should be. With an epoch, only while that reign lasts:
-- nobody else deletes any then.
-- KEYS: stream, chunks. ARGV: epoch or '', and the bytes of each chunk.
-- Answers 'done', 'deposed', the first chunk that is not whole, or why Redis does not let it look.
if ARGV[1] ~= '' then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if not last or string.match(last[1], '^%d+') ~= ARGV[1] then
    return 'deposed'
  end
end
for at = 2, #KEYS do
  local last = tonumber(ARGV[at]) - 1
  local byte = redis.pcall('GETRANGE', KEYS[at], last, last)
  if type(byte) == 'table' and not string.find(byte.err, 'WRONGTYPE') then
    -- A user who may not look has found no damage.
    return byte
  end
  if type(byte) ~= 'string' or #byte ~= 1 then
    return KEYS[at]
  end
end
return 'done'
