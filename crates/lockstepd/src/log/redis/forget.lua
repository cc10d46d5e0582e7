-- Deletes pieces and their names, if its caller still leads: another leader may need them.
-- KEYS: stream, names, pieces. ARGV: epoch, names.
-- Answers 'done' or 'deposed'.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last or string.match(last[1], '^%d+') ~= ARGV[1] then
  return 'deposed'
end
for at = 3, #KEYS do
  redis.call('UNLINK', KEYS[at])
end
for at = 2, #ARGV do
  redis.call('SREM', KEYS[2], ARGV[at])
end
return 'done'
