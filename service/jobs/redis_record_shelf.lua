-- A step's name and its arguments (JSON) go in, {'ok', ...} or {'no'} comes out: the records of redis_record_shelf.py,
-- where the table of keys is.
--
-- Redis looks at its memory limit only before a script's first write: so `create` begins with a write that adds, and
-- all other steps with one that only takes away, since they must go through on a full server.

local space, args = KEYS[1], cjson.decode(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local ROUND = 1000

local function at(...)
  return space .. ':r:' .. table.concat({...}, ':')
end

local function record(id, text)
  local version, token, due, expires, body = string.match(text, '^(%S+) (%S+) (%S+) (%S+) (.*)$')
  return {id = id, version = version, token = token, due = due, expires = expires, body = body}
end

local function is_live(found)
  return found.expires == '-' or tonumber(found.expires) > now
end

local function load(kind, id)
  local text = redis.call('HGET', at('documents', kind), id)
  return text and record(id, text)
end

local function unlist(kind, id)
  redis.call('ZREM', at('due', kind), id)
  redis.call('ZREM', at('expiries'), kind .. ' ' .. id)
end

local function list(kind, id)
  redis.call('ZADD', at('ids', kind), 0, id)
  if args.due ~= '-' then redis.call('ZADD', at('due', kind), args.due, id) end
  if args.expires ~= '-' then redis.call('ZADD', at('expiries'), args.expires, kind .. ' ' .. id) end
end

local function write(version)
  local text = table.concat({version, args.token, args.due, args.expires, args.body}, ' ')
  redis.call('HSET', at('documents', args.kind), args.id, text)
  unlist(args.kind, args.id)
  list(args.kind, args.id)
end

local function remove(kind, id)
  unlist(kind, id)
  redis.call('ZREM', at('ids', kind), id)
  redis.call('HDEL', at('documents', kind), id)
end

-- Those of the ids whose records are there, until there are enough of them.
local function gather(ids, found)
  if #ids == 0 then return end
  local texts = redis.call('HMGET', at('documents', args.kind), unpack(ids))
  for i, id in ipairs(ids) do
    local one = texts[i] and record(id, texts[i])
    if one and is_live(one) and #found < args.limit then
      found[#found + 1] = {one.id, one.version, one.due, one.expires, one.body}
    end
  end
end

local steps = {}

-- A step whose reply was lost is sent again, with the same token: what it wrote then is its own.
function steps.create()
  local known = load(args.kind, args.id)
  if known and is_live(known) then return {known.token == args.token and 'ok' or 'no'} end
  write(1)
  return {'ok'}
end

function steps.replace()
  local known = load(args.kind, args.id)
  if not known or not is_live(known) then return {'no'} end
  if known.token == args.token then return {'ok'} end
  if known.version ~= args.version then return {'no'} end
  unlist(args.kind, args.id)
  write(tonumber(args.version) + 1)
  return {'ok'}
end

function steps.get()
  local found = {}
  gather({args.id}, found)
  return {'ok', found}
end

function steps.delete()
  remove(args.kind, args.id)
  return {'ok'}
end

function steps.page()
  local found, from, to = {}, args.from, args.to
  while #found < args.limit do
    local command = args.downwards and 'ZREVRANGEBYLEX' or 'ZRANGEBYLEX'
    local ids = redis.call(command, at('ids', args.kind), from, to, 'LIMIT', 0, math.min(args.limit, ROUND))
    gather(ids, found)
    if #ids == 0 then break end
    from = '(' .. ids[#ids]
  end
  return {'ok', found}
end

function steps.due()
  local found, seen = {}, 0
  local until_now, most = string.format('%.6f', now), math.min(args.limit, ROUND)
  while #found < args.limit do
    local ids = redis.call('ZRANGEBYSCORE', at('due', args.kind), '-inf', until_now, 'LIMIT', seen, most)
    gather(ids, found)
    if #ids == 0 then break end
    seen = seen + #ids
  end
  return {'ok', found}
end

function steps.sweep()
  local until_now = string.format('%.6f', now)
  local gone = redis.call('ZRANGEBYSCORE', at('expiries'), '-inf', until_now, 'LIMIT', 0, ROUND)
  for _, named in ipairs(gone) do remove(string.match(named, '^(%S+) (.*)$')) end
  return {'ok', #gone}
end

return steps[ARGV[1]]()
