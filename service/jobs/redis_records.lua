-- The first part of every step: how the records of jobs, and all that follows from them, are read and changed.
-- The table of keys is at the top of redis_queue.py; redis_leases.lua and redis_steps.lua are the other parts.
--
-- A step checks everything before its first write, for a script that fails midway is not undone. Redis looks at its
-- memory limit only before a script's first write; so a step that must go through on a full server (ends of jobs,
-- leases, beats) begins with a write that only takes away, and one that brings in work begins with one that adds.

local space, policy, args = KEYS[1], cjson.decode(ARGV[2]), cjson.decode(ARGV[3])
local time = redis.call('TIME')
local now = string.format('%.6f', tonumber(time[1]) + tonumber(time[2]) / 1e6)
local lease_ms = math.floor(policy.lease_s * 1000)
local GROUP, CONSUMER, ROUND = 'workers', 'worker', 1000
local finished = {succeeded = true, failed = true, canceled = true, expired = true}
local held = {running = true, canceling = true}

local function at(...)
  return space .. ':' .. table.concat({...}, ':')
end

-- Jobs between attempts have a lane of their own: at the end of the common one they would lose their place in the line.
local function lane(model, priority, again)
  return at('q', model, priority) .. (again and ':again' or '')
end

local function stream_of(job)
  return lane(job.model, job.priority, job.again == '1')
end

local function load(id)
  local flat = redis.call('HGETALL', at('job', id))
  if #flat == 0 then return nil end
  local job = {}
  for i = 1, #flat, 2 do job[flat[i]] = flat[i + 1] end
  return job
end

local function set(job, changes)
  local flat = {}
  for name, value in pairs(changes) do
    job[name] = tostring(value)
    flat[#flat + 1] = name
    flat[#flat + 1] = job[name]
  end
  redis.call('HSET', at('job', job.id), unpack(flat))
end

local function reply(job)
  return {'ok', redis.call('HGETALL', at('job', job.id))}
end

-- Every combination that `find` asks for has an index of its own, so that no page is found by looking through others.
local function index_key(state, model, name)
  return at('ix', state, model and (#model .. '=' .. model) or '', name and ('=' .. name) or '')
end

local function index_keys(job, state)
  local keys = {index_key(state), index_key(state, job.model)}
  for _, name in ipairs(cjson.decode(job.tags)) do
    keys[#keys + 1] = index_key(state, nil, name)
    keys[#keys + 1] = index_key(state, job.model, name)
  end
  return keys
end

local function unindex(job)
  for _, key in ipairs(index_keys(job, job.state)) do redis.call('ZREM', key, job.id) end
end

local function index(job)
  for _, key in ipairs(index_keys(job, job.state)) do redis.call('ZADD', key, 0, job.id) end
end

local function refer(key, change)
  if redis.call('HINCRBY', at('refs'), key, change) <= 0 then redis.call('HDEL', at('refs'), key) end
end

local function forget_event(key)
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 64)
  for _, event in ipairs(oldest) do
    if event[2][2] == 'progress' then return redis.call('XDEL', key, event[1]) end
  end
  redis.call('XDEL', key, oldest[1][1])
end

local function tell(job, kind, data)
  local key = at('events', job.id)
  redis.call('XADD', key, '*', 'kind', kind, 'at', now, 'data', data)
  if redis.call('XLEN', key) > policy.max_events then forget_event(key) end
end

local function tell_state(job)
  local failure = job.failure ~= '' and (',"failure":' .. job.failure) or ''
  tell(job, 'state', '{"state":"' .. job.state .. '","attempts":' .. job.attempts .. failure .. '}')
end

-- Workers of an earlier release do not count for owners: so each count begins anew once none of its jobs waits.
local function count_owner(job, change)
  local others = redis.call('ZCARD', index_key('queued', nil, job.owner)) - math.max(change, 0)
  if others == 0 then redis.call('HDEL', at('owners'), job.owner) end
  if others > 0 or change > 0 then
    redis.call('HINCRBY', at('owners'), job.owner, change * tonumber(job.video_ms))
  end
end

local function count_waiting(job, change)
  if (job.owner or '') ~= '' then count_owner(job, change) end
  local left = redis.call('HINCRBY', at('totals'), job.priority, change * tonumber(job.video_ms))
  if change > 0 then
    redis.call('ZADD', at('waiting', job.priority), job.created, job.id)
    if job.deadline ~= '' then redis.call('ZADD', at('deadlines'), job.deadline, job.id) end
  else
    redis.call('ZREM', at('waiting', job.priority), job.id)
    redis.call('ZREM', at('deadlines'), job.id)
    if left <= 0 then redis.call('HDEL', at('totals'), job.priority) end
  end
end

local function enqueue(job)
  local key = stream_of(job)
  local new = redis.call('EXISTS', key) == 0
  set(job, {entry = redis.call('XADD', key, '*', 'job', job.id)})
  if new then
    redis.call('XGROUP', 'CREATE', key, GROUP, '0')
    redis.call('SADD', at('streams'), key)
  end
end

local function drop_entry(key, entry)
  redis.call('XACK', key, GROUP, entry)
  redis.call('XDEL', key, entry)
  if redis.call('XLEN', key) == 0 then
    redis.call('DEL', key)
    redis.call('SREM', at('streams'), key)
  end
end

local function dequeue(job)
  redis.call('ZREM', at('delayed'), job.id)
  if job.entry ~= '' then drop_entry(stream_of(job), job.entry) end
  set(job, {entry = ''})
end

local function change(job, state, changes)
  unindex(job)
  if job.state == 'queued' then count_waiting(job, -1) end
  changes.state, changes.updated, changes.version = state, now, job.version + 1
  set(job, changes)
  index(job)
  if state == 'queued' then count_waiting(job, 1) end
  tell_state(job)
end

local function finish(job, state, failure, more)
  local changes = more or {}
  changes.failure, changes.finished = failure or '', now
  dequeue(job)
  change(job, state, changes)
  redis.call('ZADD', at('finished'), now, job.id)
  refer(job.video, -1)
end

local function wait_again(job, changes)
  changes.started, changes.worker, changes.progress = '', '', ''
  change(job, 'queued', changes)
end

local function fail(job, failure)
  if not failure.retryable then return finish(job, 'failed', cjson.encode(failure)) end
  if tonumber(job.attempts) < policy.max_attempts then
    return wait_again(job, {failure = cjson.encode(failure)})
  end
  local given_up = 'The job was given up after ' .. job.attempts .. ' attempts; the last one ended so: '
  failure.message = given_up .. failure.message
  finish(job, 'failed', cjson.encode(failure), {dead = '1'})
  set(job, {dlq = redis.call('XADD', at('dlq'), '*', 'job', job.id)})
end

local function expire(job)
  local message = "The job's deadline passed before a worker was free for it"
  finish(job, 'expired', cjson.encode({code = 'deadline_passed', message = message, retryable = false}))
end

local function past_deadline(job)
  return job.deadline ~= '' and tonumber(job.deadline) <= tonumber(now)
end

local function remove(job)
  unindex(job)
  redis.call('DEL', at('job', job.id), at('events', job.id), at('result', job.id))
  redis.call('ZREM', at('finished'), job.id)
  if job.result_key ~= '' then refer(job.result_key, -1) end
  if job.idem ~= '' then
    local known = redis.call('GET', at('idem', job.idem))
    if known and string.sub(known, 1, #job.id) == job.id then redis.call('DEL', at('idem', job.idem)) end
  end
  if job.dlq ~= '' then
    redis.call('XDEL', at('dlq'), job.dlq)
    if redis.call('XLEN', at('dlq')) == 0 then redis.call('DEL', at('dlq')) end
  end
end

local function recalled(key)
  local known = redis.call('GET', at('idem', key))
  local id, fingerprint = string.match(known or '', '^(%S+) (.*)$')
  local job = id and load(id)
  if job then return job, fingerprint end
end

local function waiting()
  local jobs, video_ms = 0, 0
  for _, priority in ipairs({'high', 'normal', 'low'}) do
    jobs = jobs + redis.call('ZCARD', at('waiting', priority))
    video_ms = video_ms + tonumber(redis.call('HGET', at('totals'), priority) or 0)
  end
  return jobs, video_ms
end

local function too_long(whose, waiting_ms, video_ms, most_s)
  if waiting_ms + video_ms <= most_s * 1000 then return nil end
  return string.format(
    "%.0f s of %s wait already; with this one's %.0f s they would be more than the %.0f s that may",
    waiting_ms / 1000, whose, video_ms / 1000, most_s)
end

local function waiting_of(owner)
  if redis.call('ZCARD', index_key('queued', nil, owner)) == 0 then return 0 end
  return tonumber(redis.call('HGET', at('owners'), owner) or 0)
end

local function refusal(video_ms)
  local jobs, waiting_ms = waiting()
  if jobs + 1 > policy.max_queued_jobs then
    return jobs .. ' jobs wait already, and at most ' .. policy.max_queued_jobs .. ' may'
  end
  local refused = too_long('video', waiting_ms, video_ms, policy.max_queued_video_s)
  if refused or not args.owner_video_s then return refused end
  return too_long("the caller's video", waiting_of(args.owner), video_ms, args.owner_video_s)
end
