-- The stream's last id and index, without its payload. KEYS: stream.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then
  return {'0-0', '0'}
end
return {last[1], last[2][2]}
