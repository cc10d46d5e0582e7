-- Appends one entry if the stream ends where the author believes, or if the entry is there already.
-- KEYS: stream, born. ARGV: believed last id, new id, index, author, kind, payload, and how many of a
-- hundred parts of the memory may be in use, 0 for all of them.
-- Answers {1, id} when the entry is in, {2, the stream's last id} when there is no memory for it, else
-- {0, the stream's last id}.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local id = last and last[1] or '0-0'
if last and id == ARGV[2] and last[2][3] == 'n' and last[2][4] == ARGV[4] then
  return {1, id}
end
if id ~= ARGV[1] then
  return {0, id}
end
local percent = tonumber(ARGV[7])
if percent > 0 then
  local info = redis.call('INFO', 'memory')
  local used = tonumber(string.match(info, 'used_memory:(%d+)'))
  local most = tonumber(string.match(info, 'maxmemory:(%d+)'))
  if used and most and most > 0 and used * 100 >= most * percent then
    return {2, id}
  end
end
if not last then
  if redis.call('EXISTS', KEYS[2]) == 1 then
    return {0, 'gone'}
  end
  redis.call('SET', KEYS[2], ARGV[2])
end
redis.call('XADD', KEYS[1], ARGV[2], 'i', ARGV[3], 'n', ARGV[4], 'k', ARGV[5], 'p', ARGV[6])
return {1, ARGV[2]}
