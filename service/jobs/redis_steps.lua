-- A step's name, the policy and its arguments (JSON) go in, {'ok', ...} or {an error's name, a detail} comes out.
-- Runs behind redis_records.lua and redis_leases.lua, as one script.

local function end_pauses()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', at('delayed'), '-inf', now, 'LIMIT', 0, ROUND)) do
    redis.call('ZREM', at('delayed'), id)
    local job = load(id)
    if job then enqueue(job) end
  end
end

-- Entries that were handed back, or whose lease lapsed, come before all that wait for their first turn.
local function first_in(key, ageing_s, again)
  local last = grouped(key)
  if not last then return nil end
  local pending = redis.call('XPENDING', key, GROUP, 'IDLE', FRONT_MS, '-', '+', 1)
  local entry, made = pending[1] and pending[1][1], nil
  if not entry then
    local fresh = redis.call('XRANGE', key, '(' .. last, '+', 'COUNT', 1)
    if not fresh[1] then return nil end
    entry = fresh[1][1]
    made = again and redis.call('HGET', at('job', fresh[1][2][2]), 'created')
  end
  local rank = (made and made * 1000 or tonumber(string.match(entry, '^%d+'))) + ageing_s * 1000
  if pending[1] then rank = rank - 1e15 end
  return {key = key, entry = entry, rank = rank, front = pending[1] ~= nil}
end

local function first_of_all()
  local best = nil
  for _, model in ipairs(args.models) do
    for _, priority in ipairs(args.priorities) do
      for _, again in ipairs({true, false}) do
        local found = first_in(lane(model, priority, again), policy.ageing_s[priority] or 0, again)
        if found and (not best or found.rank < best.rank) then best = found end
      end
    end
  end
  return best
end

local function claim(found)
  if found.front then
    redis.call('XCLAIM', found.key, GROUP, CONSUMER, 0, found.entry, 'JUSTID')
    return found.entry
  end
  local read = redis.call('XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', 1, 'STREAMS', found.key, '>')
  return read[1][2][1][1]
end

local function known_take()
  local known = redis.call('GET', at('take', args.worker))
  local token, id, delivery = string.match(known or '', '^(%S+) (%S+) (%S+)$')
  local job = token == args.token and load(id)
  if job and held[job.state] and job.delivery == delivery and job.worker == args.worker then return job end
end

local steps = {}

function steps.ping()
  redis.call('SET', at('ping'), now, 'PX', 60000)
  return {'ok'}
end

function steps.pair()
  local known = redis.call('GET', at('store'))
  if not known then redis.call('SET', at('store'), args.store) end
  return {'ok', known or args.store}
end

function steps.submit()
  local repeated = load(args.id)
  if repeated then return {'ok', redis.call('HGETALL', at('job', args.id)), 0} end
  if args.idem ~= '' then
    local job, fingerprint = recalled(args.idem)
    if job and fingerprint ~= args.fingerprint then return {'IdempotencyMismatch'} end
    if job then return {'ok', redis.call('HGETALL', at('job', job.id)), 1} end
  end
  local refused = refusal(args.video_ms)
  if refused then return {'QueueFull', refused} end
  local job = {id = args.id}
  set(job, {
    id = args.id, request = args.request, model = args.model, priority = args.priority, tags = args.tags,
    owner = args.owner, video = args.video, video_ms = string.format('%.0f', args.video_ms),
    deadline = args.deadline, idem = args.idem,
    state = 'queued', created = now, updated = now, started = '', finished = '', version = 1, delivery = 0,
    attempts = 0, worker = '', progress = '', failure = '', dead = '', dlq = '', result_key = '',
    settled = '', entry = '',
  })
  index(job)
  count_waiting(job, 1)
  refer(job.video, 1)
  enqueue(job)
  tell_state(job)
  if args.idem ~= '' then
    redis.call('SET', at('idem', args.idem), job.id .. ' ' .. args.fingerprint, 'PX',
      string.format('%.0f', policy.keep_idempotency_s * 1000))
  end
  return {'ok', redis.call('HGETALL', at('job', job.id)), 0}
end

function steps.recall()
  local job, fingerprint = recalled(args.idem)
  if not job then return {'ok'} end
  return {'ok', fingerprint, redis.call('HGETALL', at('job', job.id))}
end

function steps.find()
  local ids, from = {}, args.before and ('(' .. args.before) or '+'
  for _, state in ipairs(args.states) do
    local key = index_key(state, args.model, args.name)
    for _, id in ipairs(redis.call('ZREVRANGEBYLEX', key, from, '-', 'LIMIT', 0, args.limit)) do ids[#ids + 1] = id end
  end
  table.sort(ids, function(one, other) return one > other end)
  local jobs = {}
  for i = 1, math.min(#ids, args.limit) do jobs[i] = redis.call('HGETALL', at('job', ids[i])) end
  return {'ok', jobs}
end

function steps.versions()
  local known = {}
  for i, id in ipairs(args.ids) do known[i] = redis.call('HGET', at('job', id), 'version') end
  return {'ok', known}
end

function steps.notices()
  local ended, ids = {}, {}
  for state in pairs(finished) do
    for _, id in ipairs(redis.call('ZRANGE', index_key(state, nil, args.name), 0, ROUND - 1)) do
      ids[#ids + 1] = id
      ended[id] = tonumber(redis.call('HGET', at('job', id), 'finished') or 0)
    end
  end
  table.sort(ids, function(one, other)
    if ended[one] == ended[other] then return one < other end
    return ended[one] < ended[other]
  end)
  for i = args.limit + 1, #ids do ids[i] = nil end
  return {'ok', ids}
end

function steps.noticed()
  for state in pairs(finished) do redis.call('ZREM', index_key(state, nil, args.name), args.id) end
  return {'ok'}
end

function steps.references()
  local needed = {}
  for _, key in ipairs(args.keys) do
    if redis.call('HEXISTS', at('refs'), key) == 1 then needed[#needed + 1] = key end
  end
  return {'ok', needed}
end

function steps.events()
  if redis.call('EXISTS', at('job', args.id)) == 0 then return {'JobNotFound'} end
  return {'ok', redis.call('XRANGE', at('events', args.id), args.after, '+', 'COUNT', args.limit)}
end

function steps.result()
  local job = load(args.id)
  if not job then return {'JobNotFound'} end
  return {'ok', job.state, job.result_key, redis.call('GET', at('result', args.id))}
end

function steps.cancel()
  local job = load(args.id)
  if not job then return {'JobNotFound'} end
  if job.state == 'queued' then finish(job, 'canceled') end
  if job.state == 'running' then change(job, 'canceling', {}) end
  return reply(job)
end

function steps.delete()
  local job = load(args.id)
  if not job then return {'JobNotFound'} end
  if not finished[job.state] then return {'JobNotFinished', job.state} end
  remove(job)
  return {'ok'}
end

function steps.take()
  local grace = grace_s()
  local known = known_take()
  if known then
    keep_lease(known)
    return reply(known)
  end
  end_pauses()
  for _, model in ipairs(args.models) do
    for _, priority in ipairs(args.priorities) do
      end_lapsed(lane(model, priority, false), {}, grace)
      end_lapsed(lane(model, priority, true), {}, grace)
    end
  end
  while true do
    local found = first_of_all()
    if not found then return {'ok'} end
    local job = job_of(found.key, claim(found))
    if job and past_deadline(job) then
      expire(job)
    elseif job then
      change(job, 'running', {
        started = now, worker = args.worker, progress = '', delivery = job.delivery + 1, attempts = job.attempts + 1,
        lease = new_lease(job.delivery + 1),
      })
      redis.call('SET', at('take', args.worker), args.token .. ' ' .. job.id .. ' ' .. job.delivery, 'PX', 600000)
      return reply(job)
    end
  end
end

function steps.renew()
  grace_s()
  local job = load(args.id)
  if not is_held(job) then return {'LeaseLost'} end
  keep_lease(job)
  return reply(job)
end

function steps.report()
  local job = load(args.id)
  if not is_held(job) then return {'LeaseLost'} end
  set(job, {progress = args.progress, updated = now, version = job.version + 1})
  tell(job, 'progress', args.progress)
  return {'ok'}
end

local function fail_or_pause(job)
  fail(job, args.failure)
  if job.state ~= 'queued' then return end
  dequeue(job)
  set(job, {again = '1'})
  local pause_s = policy.retry_delay_s * 2 ^ (job.attempts - 1)
  redis.call('ZADD', at('delayed'), string.format('%.6f', now + pause_s), job.id)
end

function steps.settle()
  local job = load(args.id)
  if job and job.settled == args.mark then return reply(job) end
  if not is_held(job) then return {'LeaseLost'} end
  redis.call('DEL', at('take', job.worker))
  if args.outcome == 'succeeded' then
    finish(job, 'succeeded', nil, {result_key = args.key})
    if args.text ~= '' then redis.call('SET', at('result', job.id), args.text) end
    if args.key ~= '' then refer(args.key, 1) end
  elseif job.state == 'canceling' then finish(job, 'canceled')
  elseif args.outcome == 'handed_back' then hand_back(job)
  elseif args.outcome == 'failed' then fail_or_pause(job)
  else finish(job, args.outcome, args.failure and cjson.encode(args.failure))
  end
  set(job, {settled = args.mark})
  return reply(job)
end

local function beat_of(record)
  return tonumber(string.match(record, '^%S+'))
end

local function forget_silent()
  local flat = redis.call('HGETALL', at('workers'))
  for i = 1, #flat, 2 do
    local silent_at = beat_of(flat[i + 1]) + policy.worker_silence_s
    if silent_at <= tonumber(now) then redis.call('HDEL', at('workers'), flat[i]) end
  end
end

function steps.sweep()
  local done, expired, removed, grace = {}, 0, 0, grace_s()
  end_pauses()
  for _, key in ipairs(redis.call('SMEMBERS', at('streams'))) do end_lapsed(key, done, grace) end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', at('deadlines'), '-inf', now, 'LIMIT', 0, ROUND)) do
    local job = load(id)
    redis.call('ZREM', at('deadlines'), id)
    if job then expire(job) end
    expired = expired + 1
  end
  local oldest = string.format('%.6f', now - policy.keep_jobs_s)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', at('finished'), '-inf', oldest, 'LIMIT', 0, ROUND)) do
    local job = load(id)
    redis.call('ZREM', at('finished'), id)
    if job then remove(job) end
    removed = removed + 1
  end
  forget_silent()
  return {'ok', {expired, done.canceled or 0, done.queued or 0, done.failed or 0, removed}}
end

function steps.beat()
  redis.call('HDEL', at('workers'), args.id)
  redis.call('HSET', at('workers'), args.id, now .. ' ' .. args.record)
  return {'ok'}
end

function steps.leave()
  redis.call('HDEL', at('workers'), args.worker)
  local job = known_take()
  redis.call('DEL', at('take', args.worker))
  if job and job.state == 'canceling' then finish(job, 'canceled') end
  if job and job.state == 'running' then hand_back(job) end
  return {'ok'}
end

function steps.workers()
  local alive = {}
  for _, record in ipairs(redis.call('HVALS', at('workers'))) do
    if beat_of(record) + policy.worker_silence_s > tonumber(now) then alive[#alive + 1] = record end
  end
  return {'ok', alive}
end

function steps.stats()
  local queued, oldest = {}, {}
  for i, priority in ipairs({'high', 'normal', 'low'}) do
    local first = redis.call('ZRANGE', at('waiting', priority), 0, 0, 'WITHSCORES')
    queued[i] = redis.call('ZCARD', at('waiting', priority))
    oldest[i] = first[2] and string.format('%.6f', now - first[2]) or '0'
  end
  local running = redis.call('ZCARD', index_key('running')) + redis.call('ZCARD', index_key('canceling'))
  local _, video_ms = waiting()
  return {'ok', queued, oldest, running, string.format('%.0f', video_ms), redis.call('XLEN', at('dlq'))}
end

return steps[ARGV[1]]()
