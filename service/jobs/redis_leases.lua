-- Leases: kept by the idle times of entries, ended here and nowhere else.
-- Runs behind redis_records.lua and before redis_steps.lua, as one script.

local FRONT_MS = 30 * 86400 * 1000  -- how idle the entry of a job is made that nobody holds: longer than any lease
local LATE_MS = 2000                -- owners renew every second or more often; who did is not looked at

-- Seconds in which no lease ends. Nobody could renew while the server was away, so from its return on owners have a
-- lease's time to do it. Where every step is late, no server was away but a janitor comes seldom: its time runs down.
local function grace_s()
  local known = redis.call('HMGET', at('heard'), 'at', 'grace', 'late', 'run')
  local gap_s, grace, late = now - (known[1] or now), tonumber(known[2] or 0), 0
  if known[1] and gap_s >= 0 and gap_s < math.min(policy.lease_s / 20, 1) then return grace end
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  if known[1] and (gap_s < 0 or gap_s > math.min(policy.lease_s / 2, 5) or run ~= known[4]) then late = known[3] + 1 end
  if late == 1 then
    grace = policy.lease_s
  else
    grace = math.max(0, grace - math.min(math.max(gap_s, 0), policy.lease_s / 2))
  end
  redis.call('HDEL', at('heard'), 'at')
  redis.call('HSET', at('heard'), 'at', now, 'grace', grace, 'late', late, 'run', run)
  return grace
end

local function new_lease(delivery)
  return delivery .. ' ' .. lease_ms
end

-- Workers of an earlier release do not say how long theirs is: then it is as long as the caller's.
local function lease_of(job)
  local delivery, ms = string.match(job.lease or '', '^(%S+) (%S+)$')
  return delivery == job.delivery and tonumber(ms) or lease_ms
end

local function keep_lease(job)
  redis.call('XCLAIM', stream_of(job), GROUP, CONSUMER, 0, job.entry, 'JUSTID')
end

local function is_held(job)
  return job and held[job.state] and job.delivery == tostring(args.delivery) and job.worker == args.worker
end

-- What nobody holds any longer stays pending, where `take` looks first.
local function to_front(job)
  redis.call('XCLAIM', stream_of(job), GROUP, CONSUMER, 0, job.entry, 'IDLE', FRONT_MS, 'JUSTID')
end

local function hand_back(job)
  to_front(job)
  wait_again(job, {attempts = job.attempts - 1})
end

local function lapse(job, done)
  redis.call('DEL', at('take', job.worker))
  if job.state == 'canceling' then
    finish(job, 'canceled')
  else
    local message = 'worker ' .. job.worker .. ' stopped renewing its lease'
    fail(job, {code = 'worker_crashed', message = message, retryable = true})
    if job.state == 'queued' then to_front(job) end
  end
  done[job.state] = (done[job.state] or 0) + 1
end

-- An entry whose job is gone, or is queued by another entry, is left over from data that was lost.
local function job_of(key, entry)
  local found = redis.call('XRANGE', key, entry, entry)
  local job = found[1] and load(found[1][2][2])
  if job and job.entry == entry and not finished[job.state] then return job end
  drop_entry(key, entry)
  return nil
end

local function grouped(key)
  if redis.call('EXISTS', key) == 0 then return false end
  local groups = redis.call('XINFO', 'GROUPS', key)
  if #groups == 0 then
    redis.call('XGROUP', 'CREATE', key, GROUP, '0')
    groups = redis.call('XINFO', 'GROUPS', key)
  end
  for i = 1, #groups[1], 2 do
    if groups[1][i] == 'last-delivered-id' then return groups[1][i + 1] end
  end
end

local function end_lapsed(key, done, grace)
  local from = '-'
  while grouped(key) do
    local pending = redis.call('XPENDING', key, GROUP, 'IDLE', math.min(lease_ms, LATE_MS), from, '+', 100)
    for _, entry in ipairs(pending) do
      local job = job_of(key, entry[1])
      if job and held[job.state] then
        if grace == 0 and entry[3] >= lease_of(job) then lapse(job, done) end
      elseif job and entry[3] < FRONT_MS then
        to_front(job)  -- an earlier release made it as idle as its own lease is long
      end
      from = '(' .. entry[1]
    end
    if #pending < 100 then return end
  end
end
