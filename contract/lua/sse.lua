#!lua name=sse
-- The gateway's side of Redis: every write and every consistent read is one of these functions, so
-- that any client in any language publishes exactly as a gateway does. docs/redis-contract.md is the
-- written contract; it and LIBRARY_VERSION change together.
--
-- The same text runs by EVALSHA where FUNCTION is refused: the first line is cut and a call appended.

local LIBRARY_VERSION = 1

-- Used by a publish that comes before any gateway has written the limits.
local DEFAULT_MAX_LEN = 1000
local DEFAULT_TTL_MS = 3600000
local DEFAULT_MAX_DATA = 1048576
local DEFAULT_IDEM_TTL_MS = 600000

-- A history outlives its youngest event by ttl and this much, so that "younger than ttl" can be
-- decided before Redis takes the key away.
local EXPIRY_SLACK_MS = 60000

-- seq = epoch * 2^16 + counter. An epoch has 28 bits, so every number here is an exact double.
local COUNTERS = 65536
local EPOCHS = 268435456

local function fail(code, text)
  return redis.error_reply(code .. ' ' .. text)
end

local function parse_id(text)
  local ms, seq = string.match(text or '', '^(%d+)-(%d+)$')
  if not ms or #ms > 15 or #seq > 14 then return nil end
  return { ms = tonumber(ms), seq = tonumber(seq) }
end

local function format_id(id)
  return string.format('%.0f-%.0f', id.ms, id.seq)
end

local function above(a, b)
  return a.ms > b.ms or (a.ms == b.ms and a.seq > b.seq)
end

local function epoch_of(id)
  return math.floor(id.seq / COUNTERS)
end

local function time_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000), t[2]
end

-- What tells one life of a data set from another: the process, and how much it has thrown away.
local function server_life()
  local info = redis.pcall('INFO', 'server', 'stats')
  if type(info) ~= 'string' then return '', '' end
  return string.match(info, 'run_id:(%w+)') or '', string.match(info, 'evicted_keys:(%d+)') or ''
end

local FIELDS = { 'id', 'run', 'evicted', 'max_len', 'ttl', 'max_data', 'idem_ttl', 'partitions', 'version' }

local function read_state(key)
  local v = redis.call('HMGET', key, unpack(FIELDS))
  local s = { clock = parse_id(v[1]), run = v[2], evicted = v[3] }
  for i = 4, #FIELDS do s[FIELDS[i]] = tonumber(v[i] or nil) end
  return s
end

-- Ids may already be in readers' hands that this data set knows nothing of, so the new clock is above
-- all that anybody can name: the old clock, the time, and `floors`.
local function begin_epoch(key, s, run, evicted, floors)
  local now, micros = time_ms()
  local ms = now
  if s.clock and s.clock.ms > ms then ms = s.clock.ms end
  for _, floor in ipairs(floors) do
    if floor.ms > ms then ms = floor.ms end
  end
  local old = s.clock and epoch_of(s.clock) or 0
  local drawn = redis.sha1hex(run .. ':' .. now .. ':' .. micros .. ':' .. old)
  local epoch = tonumber(string.sub(drawn, 1, 7), 16)
  if epoch == 0 or epoch == old then epoch = (old + 1) % EPOCHS end
  if epoch == 0 then epoch = 1 end
  s.clock, s.run, s.evicted = { ms = ms + 1, seq = epoch * COUNTERS }, run, evicted
  redis.call('HSET', key, 'id', format_id(s.clock), 'run', run, 'evicted', evicted)
end

-- The id after `clock` at time `now`: time if it moved on, else the next counter, else the next ms.
local function next_id(clock, now)
  local epoch = epoch_of(clock)
  if now > clock.ms then return { ms = now, seq = epoch * COUNTERS } end
  if clock.seq + 1 < (epoch + 1) * COUNTERS then return { ms = clock.ms, seq = clock.seq + 1 } end
  return { ms = clock.ms + 1, seq = epoch * COUNTERS }
end

local function stream_info(key)
  if redis.call('EXISTS', key) == 0 then return nil end
  local raw = redis.call('XINFO', 'STREAM', key)
  local info = {}
  for i = 1, #raw, 2 do info[raw[i]] = raw[i + 1] end
  return {
    length = info['length'],
    added = info['entries-added'],
    last = parse_id(info['last-generated-id']),
    oldest = info['first-entry'] and parse_id(info['first-entry'][1]) or nil,
  }
end

-- `sse:state` and `sse:history:orders` name everything else, so that names cannot disagree.
local function names(state_key, history_key)
  local prefix = string.match(state_key or '', '^(.+):state$')
  if not prefix then return nil, fail('SSEINVALID', 'keys: the first key must be <prefix>:state') end
  local head = prefix .. ':history:'
  if string.sub(history_key or '', 1, #head) ~= head then
    return nil, fail('SSEINVALID', 'keys: the second key must be ' .. head .. '<channel>')
  end
  local channel = string.sub(history_key, #head + 1)
  if #channel < 1 or #channel > 200 or string.find(channel, '[^%w_.:@/=+~-]') or string.sub(channel, 1, 1) == ':' then
    return nil, fail('SSEINVALID', 'channel: 1 to 200 bytes of [A-Za-z0-9_.:@/=+~-], not beginning with a colon')
  end
  return {
    channel = channel,
    live = prefix .. ':' .. channel,
    idem = prefix .. ':idem:' .. channel .. ':',
    -- Sharded pub/sub where the names carry a partition's hash tag.
    publish = string.find(prefix, '{%d+}$') and 'SPUBLISH' or 'PUBLISH',
  }
end

-- KEYS: <prefix>:state, <prefix>:history:<channel> [, <prefix>:idem:<channel>:<key>]
-- ARGV: data [, event type, '' for none]
-- Answers the event's id, or an error whose first word is SSEINVALID, SSECONFLICT or SSEDENIED.
local function sse_publish(keys, args)
  local name, problem = names(keys[1], keys[2])
  if not name then return problem end
  local data, event = args[1], args[2] or ''
  if not data or #args > 2 then return fail('SSEINVALID', 'arguments: data and, if typed, the event type') end
  if #event > 200 then return fail('SSEINVALID', 'event: at most 200 bytes') end
  if string.find(event, '[%z\r\n]') then return fail('SSEINVALID', 'event: NUL, CR and LF are not allowed') end
  if event == 'gap' or event == 'checkpoint' then
    return fail('SSEINVALID', 'event: ' .. event .. ' is reserved for the gateway')
  end
  local idem, payload = keys[3], nil
  if idem then
    if string.sub(idem, 1, #name.idem) ~= name.idem or #idem == #name.idem then
      return fail('SSEINVALID', 'keys: the third key must be ' .. name.idem .. '<idempotency key>')
    end
    if #idem > #name.idem + 200 then return fail('SSEINVALID', 'idempotency_key: at most 200 bytes') end
  end
  local s = read_state(keys[1])
  local max_data = s.max_data or DEFAULT_MAX_DATA
  if #data > max_data then
    return fail('SSEINVALID', 'data: ' .. #data .. ' bytes, at most ' .. max_data)
  end
  if not redis.acl_check_cmd(name.publish, name.live, '') then
    return fail('SSEDENIED', 'this user may not ' .. name.publish .. ' to ' .. name.live)
  end
  if idem then
    payload = redis.sha1hex(event .. '\n' .. data)
    local known = redis.call('GET', idem)
    if known then
      local id, was = string.match(known, '^(%S+) (%S+)$')
      if was ~= payload then
        return fail('SSECONFLICT', 'idempotency_key: was used here for another payload, published as ' .. tostring(id))
      end
      return id
    end
  end

  local now = time_ms()
  if not s.clock or not s.run then
    local run, evicted = server_life()
    begin_epoch(keys[1], s, run, evicted, {})
  end
  local id = next_id(s.clock, now)
  local max_len = s.max_len or DEFAULT_MAX_LEN
  if max_len > 0 then
    local function add()
      if event == '' then
        return redis.pcall('XADD', keys[2], 'MAXLEN', '~', max_len, format_id(id), 'data', data)
      end
      return redis.pcall('XADD', keys[2], 'MAXLEN', '~', max_len, format_id(id), 'data', data, 'event', event)
    end
    local added = add()
    if type(added) == 'table' and added.err and string.find(added.err, 'equal or smaller', 1, true) then
      -- The stream holds events this clock never issued: the state is older than the history.
      local run, evicted = server_life()
      begin_epoch(keys[1], s, run, evicted, { stream_info(keys[2]).last })
      id = next_id(s.clock, now)
      added = add()
    end
    if type(added) == 'table' and added.err then return added end
  end
  redis.call('HSET', keys[1], 'id', format_id(id))
  local frame = '\255\1' .. format_id(id) .. '\n' .. event .. '\n' .. data
  local sent = redis.pcall(name.publish, name.live, frame)
  if type(sent) == 'table' and sent.err then
    if max_len > 0 then redis.call('XDEL', keys[2], format_id(id)) end
    return sent
  end
  if max_len > 0 then
    redis.call('PEXPIREAT', keys[2], string.format('%.0f', id.ms + (s.ttl or DEFAULT_TTL_MS) + EXPIRY_SLACK_MS))
  end
  if idem then
    redis.call('SET', idem, format_id(id) .. ' ' .. payload, 'PX', s.idem_ttl or DEFAULT_IDEM_TTL_MS)
  end
  return format_id(id)
end

-- The first eight arguments of every call that only gateways make.
local function gateway_args(args)
  return {
    seen = parse_id(args[1]),
    durable = args[2] == '1',
    settings = { max_len = args[3], ttl = args[4], max_data = args[5], idem_ttl = args[6] },
    partitions = args[7],
    version = args[8],
  }
end

-- Finds out whether acknowledged writes may have been lost since the state was written, and begins an
-- epoch if so; fills in what a first gateway has to write; raises the clock to the time.
local function settle(key, g, lasts)
  local s = read_state(key)
  if s.version and s.version ~= tonumber(g.version) then
    return nil, fail('SSEMISMATCH', 'version: Redis holds contract version ' .. s.version .. ', this gateway speaks ' .. g.version)
  end
  if s.partitions and s.partitions ~= tonumber(g.partitions) then
    return nil, fail('SSEMISMATCH', 'partitions: Redis holds ' .. s.partitions .. ', this gateway is configured for ' .. g.partitions)
  end
  local run, evicted = server_life()
  if run == '' then return nil, fail('SSEDENIED', 'a gateway needs the right to INFO: it tells one life of the data from another') end
  local floors = {}
  local lost = not s.clock or not s.run or not s.ttl
  if s.run ~= run then
    if g.durable and not lost then
      -- The operator's word: acknowledged writes survive a restart. What was evicted since did not.
      redis.call('HSET', key, 'run', run, 'evicted', evicted)
      lost = evicted ~= '0'
    else
      lost = true
    end
  elseif s.evicted ~= evicted then
    lost = true
  end
  if g.seen then
    floors[1] = g.seen
    if s.clock and above(g.seen, s.clock) then lost = true end
  end
  for _, last in ipairs(lasts) do
    floors[#floors + 1] = last
    if s.clock and above(last, s.clock) then lost = true end
  end
  if not s.version or not s.partitions or not s.ttl then
    for field, value in pairs(g.settings) do
      if not s[field] then
        redis.call('HSET', key, field, value)
        s[field] = tonumber(value)
      end
    end
    redis.call('HSET', key, 'partitions', g.partitions, 'version', g.version)
    s.partitions, s.version = tonumber(g.partitions), tonumber(g.version)
  end
  if lost then begin_epoch(key, s, run, evicted, floors) end
  local now = time_ms()
  if now > s.clock.ms then
    s.clock = { ms = now, seq = epoch_of(s.clock) * COUNTERS }
    redis.call('HSET', key, 'id', format_id(s.clock))
  end
  s.now = now
  return s
end

-- KEYS: state. ARGV: the gateway's eight.
-- Answers clock, time in ms, max_len, ttl in ms, max_data, idem_ttl in ms.
local function sse_tick(keys, args)
  local s, problem = settle(keys[1], gateway_args(args), {})
  if not s then return problem end
  return { format_id(s.clock), s.now, s.max_len, s.ttl, s.max_data, s.idem_ttl }
end

-- An atomic snapshot of histories. KEYS: state, then one history a range. ARGV: the gateway's eight,
-- bytes a range may take, bytes all may take, then one position a range ('0-0' for the oldest kept; with
-- a '~' before it, only the two youngest entries above it are wanted).
-- Answers clock, time, max_len, ttl, and for each range
--   { last id or '', oldest id or '', entries-added, length, more, entries }
-- where entries are id, data, event type or '', … in order, and more is 1 when the range was cut. A range
-- with events has at least one, whatever the budgets, so that a reader always gets on.
local function sse_read(keys, args)
  local infos, lasts = {}, {}
  for i = 2, #keys do
    if infos[keys[i]] == nil then
      local info = stream_info(keys[i])
      infos[keys[i]] = info or false
      if info then lasts[#lasts + 1] = info.last end
    end
  end
  local s, problem = settle(keys[1], gateway_args(args), lasts)
  if not s then return problem end
  local range_bytes, left = tonumber(args[9]), tonumber(args[10])
  local out = { format_id(s.clock), s.now, s.max_len, s.ttl }
  for i = 2, #keys do
    local info = infos[keys[i]]
    local youngest, after = string.match(args[9 + i] or '', '^(~?)(.*)$')
    local from = parse_id(after)
    if not from then return fail('SSEINVALID', 'range ' .. (i - 1) .. ': not a position: ' .. after) end
    local entries, more, bytes = {}, 0, 0
    local function add(entry)
      local data, event = '', ''
      for f = 1, #entry[2], 2 do
        if entry[2][f] == 'data' then data = entry[2][f + 1]
        elseif entry[2][f] == 'event' then event = entry[2][f + 1] end
      end
      entries[#entries + 1] = entry[1]
      entries[#entries + 1] = data
      entries[#entries + 1] = event
      bytes = bytes + #data + 64
      left = left - #data - 64
      after = entry[1]
    end
    if info and youngest == '~' then
      local two = redis.call('XREVRANGE', keys[i], '+', '(' .. after, 'COUNT', 2)
      for n = #two, 1, -1 do add(two[n]) end
    elseif info and above(info.last, from) then
      local count = left > 0 and 16 or 1
      while true do
        if bytes > 0 and (left <= 0 or bytes >= range_bytes) then more = 1 break end
        local chunk = redis.call('XRANGE', keys[i], '(' .. after, '+', 'COUNT', count)
        local cut = false
        for _, entry in ipairs(chunk) do
          if bytes > 0 and (left <= 0 or bytes >= range_bytes) then cut = true break end
          add(entry)
        end
        if cut then more = 1 break end
        if #chunk < count then break end
        if count < 256 then count = count * 2 end
      end
    end
    if info then
      out[#out + 1] = { format_id(info.last), info.oldest and format_id(info.oldest) or '', info.added, info.length, more, entries }
    else
      out[#out + 1] = { '', '', 0, 0, 0, entries }
    end
  end
  return out
end

-- KEYS: state. Begins an epoch by hand: after a history was deleted, say. Answers the clock.
local function sse_fence(keys, args)
  local s = read_state(keys[1])
  local run, evicted = server_life()
  begin_epoch(keys[1], s, run, evicted, {})
  return format_id(s.clock)
end

-- KEYS: state. ARGV: max_len, ttl in ms, max_data, idem_ttl in ms. Writes the limits and begins an
-- epoch, because what the old limits promised can no longer be judged. Answers the clock.
local function sse_settings(keys, args)
  if #args ~= 4 then return fail('SSEINVALID', 'arguments: max_len, ttl, max_data, idem_ttl') end
  redis.call('HSET', keys[1], 'max_len', args[1], 'ttl', args[2], 'max_data', args[3], 'idem_ttl', args[4])
  return sse_fence(keys, {})
end

local function sse_version()
  return LIBRARY_VERSION
end

-- A full Redis refuses publications, and only those: ticks and reads write a few bytes at most, and whoever
-- is connected must be able to go on.
if redis.register_function then
  redis.register_function('sse_publish', sse_publish)
  redis.register_function { function_name = 'sse_tick', callback = sse_tick, flags = { 'allow-oom' } }
  redis.register_function { function_name = 'sse_read', callback = sse_read, flags = { 'allow-oom' } }
  redis.register_function { function_name = 'sse_fence', callback = sse_fence, flags = { 'allow-oom' } }
  redis.register_function { function_name = 'sse_settings', callback = sse_settings, flags = { 'allow-oom' } }
  redis.register_function { function_name = 'sse_version', callback = sse_version, flags = { 'no-writes' } }
end
