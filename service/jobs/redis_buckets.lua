-- A bucket's name, its rate and its burst go in (JSON); {'ok', seconds until there is a token} comes out, 0 with one
-- taken. A bucket is the moment at which it is full again: `burst` tokens before that moment, it is empty.

local args = cjson.decode(ARGV[3])
local key = KEYS[1] .. ':bucket:' .. args.name
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local full = math.max(now, tonumber(redis.call('GET', key) or now)) + 1 / args.per_s
local wait = full - now - args.burst / args.per_s
if wait > 1e-6 then return {'ok', string.format('%.6f', wait)} end
-- Redis looks at its memory limit before a script's first write: one that takes away goes through on a full server.
redis.call('DEL', key)
redis.call('SET', key, string.format('%.6f', full), 'PX', math.max(1, math.ceil((full - now) * 1000)))
return {'ok', '0'}
