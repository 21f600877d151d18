#!lua name=sse
-- The part of the gateway that runs inside Redis. Every write and every consistent read is one of these functions,
-- so a client in any language publishes exactly as a gateway does. docs/redis-contract.md describes them for other
-- clients; change it together with these versions.
--
-- Where Redis refuses FUNCTION, the same text runs by EVALSHA, without its first line and with a call appended.
--
-- Three rules hold throughout. A function checks all rights that it may need before it writes anything. It undoes a
-- write that failed half-way and then answers with an error code of its own; after an error without such a code,
-- nobody knows whether the event was published. No command that can fail follows a PUBLISH.

-- Of this text. A gateway replaces only an older one.
local LIBRARY_VERSION = 4
-- Of keys, ids and frames.
local CONTRACT_VERSION = 2
local MAX_BATCH = 64

-- The limits of a publish that runs before any gateway has written them.
local DEFAULTS = { max_len = 1000, ttl = 3600000, max_data = 1048576, idem_ttl = 600000 }

-- Redis removes a history ttl plus this time after its youngest event. So the history of an event younger than ttl
-- cannot have expired.
local EXPIRY_SLACK_MS = 60000

-- seq = epoch * 2^16 + counter. An epoch has 28 bits, so a Lua number holds every value exactly.
local COUNTERS = 65536
local EPOCHS = 268435456
-- An id beyond this time, in the year 5107, is invalid. If the clock followed such an id, its time would soon have
-- more digits than parse_id reads.
local MOST_MS = 99000000000000

-- A new epoch raises the count of ticks by this much. So the count is above what any gateway has seen, even where
-- the state went back to an older count.
local BEATS_AN_EPOCH = 1000000

-- Redis provides these only while a function runs, so `enter` sets them.
local run, may, sub, find, match, format, kind

-- A cache from call to call, of the partition that was called last: its names, and its parsed clock, limits and
-- expiry second, each beside the text or number that it was parsed from. Parsing them again would take longer than
-- the rest of a publish. Rights and the contents of keys are not cached, because Redis may change them. By EVALSHA
-- nothing is cached.
local state, live_head, history_head, idem_head, known_head, publish
local clock, clock_ms, clock_ms_text, clock_seq, epoch, first_seq, high_seq, high_text
local limits, max_len, keeps, lives, max_data, idem_ttl, witness, witness_before, witness_until
local expiry_second, expiry_text
-- The caches of the other partitions on this server, up to a limit.
local MAX_PARTITIONS = 256
local others, other_count = {}, 0
-- These do not depend on the partition.
local now, now_text, micros
local last_digits = {}

local function fail(text)
  return redis.error_reply(text)
end

-- The error text in an answer of redis.pcall, or nil.
local function failed(answer)
  return kind(answer) == 'table' and answer.err or nil
end

local function denied(cmd, key)
  return 'SSEDENIED this user may not ' .. cmd .. ' ' .. key
end

-- What stands behind the key in the shortest call of a command. Since Redis 8.2.9 a server does not judge shorter calls.
local BEHIND = {
  HSET = { '', '' }, HINCRBY = { '', '' }, HMGET = { '' }, HGET = { '' }, XADD = { '', '', '' }, XDEL = { '' },
  PEXPIREAT = { '' }, SET = { '' }, PUBLISH = { '' }, SPUBLISH = { '' }, GET = {}, UNLINK = {}, INFO = {},
}

-- Whether the user may run a command on a key.
local function allowed(cmd, key)
  if cmd == 'TIME' then return redis.acl_check_cmd('TIME') end
  if cmd == 'XINFO' then return redis.acl_check_cmd('XINFO', 'STREAM', key) end
  return redis.acl_check_cmd(cmd, key, unpack(BEHIND[cmd]))
end

-- Takes commands and keys in turn. Returns an error if the user may not run one of the commands on its key.
local function check(wanted)
  for i = 1, #wanted, 2 do
    if not allowed(wanted[i], wanted[i + 1]) then return denied(wanted[i], wanted[i + 1]) end
  end
end

-- Returns the error for a command that Redis refused before anything was written.
local function refused(err, cmd, key)
  if allowed(cmd, key) then return 'SSEUNDONE ' .. err end
  return denied(cmd, key)
end

-- Returns an id's two numbers and the text of the first, or nil for an invalid id.
local function parse_id(text)
  local ms, seq = match(text or '', '^(%d+)-(%d+)$')
  if not ms or #ms > 14 or #seq > 14 then return nil end
  local ms_number, seq_number = tonumber(ms), tonumber(seq)
  if ms_number >= MOST_MS or seq_number >= EPOCHS * COUNTERS then return nil end
  return ms_number, seq_number, ms
end

local function above(ms, seq, than_ms, than_seq)
  return ms > than_ms or (ms == than_ms and seq > than_seq)
end

-- Returns a non-negative integer, or nil if the text is none.
local function number(text)
  if not text or text == '' or #text > 14 or find(text, '%D') then return nil end
  return tonumber(text)
end

local function decimal(n)
  return format('%.0f', n)
end

-- Stores the cache of the current partition in `others`.
local function leave()
  local o = others[state]
  if not o then
    if other_count == MAX_PARTITIONS then others, other_count = {}, 0 end
    o, other_count = {}, other_count + 1
    others[state] = o
  end
  o.live_head, o.history_head, o.idem_head, o.known_head, o.publish = live_head, history_head, idem_head, known_head, publish
  o.clock, o.clock_ms, o.clock_ms_text, o.clock_seq = clock, clock_ms, clock_ms_text, clock_seq
  o.epoch, o.first_seq, o.high_seq, o.high_text = epoch, first_seq, high_seq, high_text
  o.limits, o.max_len, o.keeps, o.lives, o.max_data, o.idem_ttl = limits, max_len, keeps, lives, max_data, idem_ttl
  o.witness, o.witness_before, o.witness_until = witness, witness_before, witness_until
  o.expiry_second, o.expiry_text = expiry_second, expiry_text
end

-- Makes the partition with this state key the current one. Returns an error, if any.
local function enter(key)
  if state == key then return nil end
  run, may = redis.pcall, redis.acl_check_cmd
  sub, find, match, format, kind = string.sub, string.find, string.match, string.format, type
  -- A prefix contains neither a colon nor a brace, so a name has only one prefix.
  local head = match(key or '', '^([!-9;-z|~]+):state$') or match(key or '', '^([!-9;-z|~]+:{%d+}):state$')
  if not head then
    return 'SSEINVALID keys: the first key must be <prefix>:state or <prefix>:{<partition>}:state'
  end
  if state then leave() end
  state = nil
  local o = others[key] or {
    live_head = head .. ':', history_head = head .. ':history:', idem_head = head .. ':idem:', known_head = head .. ':known:',
    -- With several partitions, names carry a hash tag and Redis sends live events by sharded pub/sub.
    publish = sub(head, -1) == '}' and 'SPUBLISH' or 'PUBLISH',
  }
  live_head, history_head, idem_head, known_head, publish = o.live_head, o.history_head, o.idem_head, o.known_head, o.publish
  clock, clock_ms, clock_ms_text, clock_seq = o.clock, o.clock_ms, o.clock_ms_text, o.clock_seq
  epoch, first_seq, high_seq, high_text = o.epoch, o.first_seq, o.high_seq, o.high_text
  limits, max_len, keeps, lives, max_data, idem_ttl = o.limits, o.max_len, o.keeps, o.lives, o.max_data, o.idem_ttl
  witness, witness_before, witness_until = o.witness, o.witness_before, o.witness_until
  expiry_second, expiry_text = o.expiry_second, o.expiry_text
  state = key
end

-- Sets the cached clock to an id. Returns false for an invalid id.
local function set_clock(text)
  if text and text == clock then return true end
  local ms, seq, ms_text = parse_id(text)
  if not ms then return false end
  clock = nil
  clock_ms, clock_seq, clock_ms_text = ms, seq, ms_text
  epoch = math.floor(seq / COUNTERS)
  first_seq = epoch * COUNTERS
  clock = text
  return true
end

-- Sets the cached limits and the witness' generation from the state's field `publishing`. Returns false for an
-- invalid text.
local function set_limits(text)
  if text and text == limits then return true end
  local version, len, ttl, data, idem, known, known_until =
    match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if version ~= tostring(CONTRACT_VERSION) then return false end
  limits, expiry_second = nil, nil
  max_len, keeps = len, len ~= '0'
  lives = tonumber(ttl) + EXPIRY_SLACK_MS
  max_data, idem_ttl = tonumber(data), idem
  witness, witness_before = known_head .. known, known_head .. decimal(tonumber(known) - 1)
  witness_until = tonumber(known_until)
  limits = text
  return true
end

local function limits_text(s)
  return format('%d %.0f %.0f %.0f %.0f %.0f %.0f', CONTRACT_VERSION, s.max_len, s.ttl, s.max_data,
    math.max(s.idem_ttl, 1), s.known, s.known_until)
end

-- Sets the time, in ms. Returns an error, if any.
local function set_now()
  local t = run('TIME')
  if t.err then return refused(t.err, 'TIME', state) end
  micros = t[2]
  now_text = t[1] .. (#micros == 6 and sub(micros, 1, 3) or sub('000000' .. micros, -6, -4))
  now = now_text + 0
end

-- The expiry time of a history whose last event is of this ms. All events of a second share it, so its text is cached.
local function expiry(ms)
  local second = ms - ms % 1000
  if second ~= expiry_second then
    expiry_text = decimal(second + 1000 + lives)
    expiry_second = second
  end
  return expiry_text
end

-- The clock's next id: of the current time if the clock is behind it, else with the next counter, else of the next
-- ms. Lua takes a microsecond to format a long number, so this caches the leading digits and the last three.
local function next_id()
  local seq = clock_seq + 1
  clock = nil
  if now > clock_ms then
    clock_ms, clock_ms_text, seq = now, now_text, first_seq
  elseif seq == first_seq + COUNTERS then
    clock_ms = clock_ms + 1
    clock_ms_text, seq = decimal(clock_ms), first_seq
  end
  clock_seq = seq
  local low = seq % 1000
  if seq - low ~= high_seq then
    high_seq = seq - low
    -- A number is this short only in epoch 0, which no state has.
    high_text = high_seq > 0 and decimal(high_seq / 1000) or ''
  end
  local low_text = last_digits[low]
  if not low_text then
    low_text = format('%03d', low)
    last_digits[low] = low_text
  end
  clock = clock_ms_text .. '-' .. high_text .. low_text
  return clock
end

-- The fields of the state; those from `commands` on are numbers.
local FIELDS = {
  'id', 'run', 'replid', 'evicted', 'publishing', 'commands', 'beat', 'max_len', 'ttl', 'max_data', 'idem_ttl', 'durable',
  'partitions', 'version', 'known', 'known_until',
}

-- Returns the whole state, with `clock` true if it has a valid clock, or nil and an error if Redis refuses the read.
local function read_state()
  local values = run('HMGET', state, unpack(FIELDS))
  if values.err then return nil, refused(values.err, 'HMGET', state) end
  local s, is_number = {}, false
  for i, field in ipairs(FIELDS) do
    is_number = is_number or field == 'commands'
    if is_number then s[field] = number(values[i]) else s[field] = values[i] or nil end
  end
  s.clock = set_clock(s.id)
  return s
end

-- Returns an error if the state is of another version. A state of version 1 or without a version is converted later.
local function foreign(s)
  if s.version and s.version ~= CONTRACT_VERSION and s.version ~= 1 then
    return 'SSEMISMATCH version: Redis holds contract version ' .. s.version .. ', this library speaks ' .. CONTRACT_VERSION
  end
end

-- Identifies the data set's current life: its process, its replication id, its number of evictions, and a count of
-- commands that only a restart or CONFIG RESETSTAT lowers.
local function server_life()
  local info = run('INFO', 'server', 'stats', 'replication')
  if type(info) ~= 'string' then return nil end
  local function field(name) return match(info, '\n' .. name .. ':(%w+)') or '' end
  return {
    run = field('run_id'),
    evicted = field('evicted_keys'),
    commands = field('total_commands_processed'),
    replid = field('master_replid'),
    -- A promotion leaves the old replication id in this field. Without a promotion, Redis draws a new id when a first
    -- replica attaches, and some time after the last one left.
    promoted = find(field('master_replid2'), '[^0]') ~= nil,
    former = field('master_replid2'),
  }
end

-- Readers may hold ids that this data set has lost. So the new clock is above every id that a reader can hold: the
-- old clock, the time, and `floor`. Returns Redis' error, if any.
local function begin_epoch(s, life, floor)
  local ms, old = math.max(now, floor), 0
  if s.clock then ms, old = math.max(ms, clock_ms), epoch end
  if ms + 1 >= MOST_MS then ms = now end
  local drawn = redis.sha1hex(table.concat({ life.run, now_text, micros, decimal(old) }, ':'))
  local new = tonumber(sub(drawn, 1, 7), 16)
  if new == 0 or new == old then new = (old + 1) % EPOCHS end
  if new == 0 then new = 1 end
  set_clock(decimal(ms + 1) .. '-' .. decimal(new * COUNTERS))
  s.clock, s.beat = true, (s.beat or 0) + BEATS_AN_EPOCH
  s.run, s.replid, s.evicted, s.commands = life.run, life.replid, life.evicted, number(life.commands)
  -- Publishing reads the first two fields. They come first because Redis searches a small hash from its beginning.
  return failed(run('HSET', state, 'id', clock, 'publishing', s.publishing or '', 'run', life.run, 'replid', life.replid,
    'evicted', life.evicted, 'commands', life.commands, 'beat', decimal(s.beat)))
end

-- The witness, a hash of each channel's last event id, detects histories that vanished. If Redis' time jumps forward
-- by more than their ttl, Redis deletes histories; an absent history and a young position then look complete. There
-- are two generations, and each lasts longer than any history. A hash without the mark was deleted and is incomplete;
-- no channel name begins with a colon. Redis keeps a small hash as a list, and searches up to 512 fields for each event.
-- A mark longer than 64 bytes makes it a hash table from the start.
local MARK = ':since'

local function known_name(generation)
  return known_head .. decimal(generation)
end

-- Returns Redis' error, if any.
local function begin_generation(s)
  s.known = (s.known or 0) + 1
  s.known_until = math.max(now, clock_ms) + s.ttl + EXPIRY_SLACK_MS
  return failed(run('UNLINK', known_name(s.known - 2), known_name(s.known)))
    or failed(run('HSET', known_name(s.known), MARK, format('%-80s', now_text)))
    or failed(run('HSET', state, 'known', decimal(s.known), 'known_until', decimal(s.known_until)))
end

local function generation_is_over(s)
  return not s.known or not s.known_until or not s.clock or math.max(now, clock_ms) >= s.known_until
end

-- Repairs a state without a clock, without limits or with an old generation. Returns an error, if any.
local function prepare()
  local s, problem = read_state()
  if not s then return problem end
  problem = foreign(s)
  if problem then return problem end
  local n, over = s.known or 0, generation_is_over(s)
  problem = check { 'HSET', state }
    or (not s.clock or not s.run) and check { 'INFO', 'server' }
    or over and check { 'HSET', known_name(n + 1), 'UNLINK', known_name(n + 1), 'UNLINK', known_name(n - 1) }
  if problem then return problem end
  for field, default in pairs(DEFAULTS) do s[field] = s[field] or default end
  if not s.clock or not s.run then
    local life = server_life()
    if not life then return 'SSEUNDONE Redis does not tell INFO' end
    problem = begin_epoch(s, life, 0)
  end
  if over then problem = problem or begin_generation(s) end
  local text = limits_text(s)
  problem = problem or failed(run('HSET', state, 'publishing', text))
  if problem then return 'SSEUNDONE ' .. problem end
  set_limits(text)
end

-- Starts every publish: reads the state, checks the epoch and the rights, sets the time. Returns an error, if any.
local function begin(wanted_epoch)
  local values = run('HMGET', state, 'id', 'publishing')
  if values.err then return refused(values.err, 'HMGET', state) end
  local known = values[1] == clock or set_clock(values[1])
  if wanted_epoch ~= '' and (not known or tonumber(wanted_epoch) ~= epoch) then
    if find(wanted_epoch, '%D') then return 'SSEINVALID epoch: a decimal number, or empty' end
    return 'SSEEPOCH the data lives in ' .. (known and 'epoch ' .. decimal(epoch) or 'no epoch') .. ', the caller in '
      .. wanted_epoch
  end
  local problem = set_now()
  if problem then return problem end
  if not known or not (values[2] == limits or set_limits(values[2])) or now >= witness_until or clock_ms >= witness_until then
    problem = prepare()
    if problem then return problem end
  end
  if not may('HSET', state, '', '') then return denied('HSET', state) end
  if not keeps then return nil end
  if not may('HSET', witness, '', '') then return denied('HSET', witness) end
  -- Redis Cluster moves a partition key by key. The witness is not among the call's keys, so Redis does not notice
  -- if it has not come yet; and a new one in its place would stop the move.
  if publish == 'SPUBLISH' then
    if not may('HGET', witness, '') then return denied('HGET', witness) end
    local mark = run('HGET', witness, MARK)
    if failed(mark) then return 'SSEUNDONE ' .. mark.err end
    if not mark then return 'SSEUNDONE the partition has no witness here: it is being moved, or a gateway must repair it' end
  end
end

local RESERVED = { gap = true, checkpoint = true, alive = true }

-- Returns an error if the event type is invalid.
local function misnamed(event)
  if #event > 200 then return 'SSEINVALID event: at most 200 bytes' end
  if find(event, '[%z\r\n]') then return 'SSEINVALID event: NUL, CR and LF are not allowed' end
  if RESERVED[event] then return 'SSEINVALID event: ' .. event .. ' is reserved for the gateway' end
end

-- Patterns of channel names without and with a hash tag. The tag decides the partition.
local PLAIN = '^[%w_.@/=+~-][%w_.:@/=+~-]*$'
local TAGGED = '^[%w_.:@/=+~-]*{[%w_.:@/=+~-]+}[%w_.:@/=+~-]*$'

-- Returns the channel of a history and the name of its pub/sub channel, or nil and an error if the name is invalid or
-- the user lacks a right to publish there.
local function locate(history)
  local at = #history_head + 1
  if sub(history, 1, at - 1) ~= history_head then
    return nil, 'SSEINVALID keys: an event\'s first key must be ' .. history_head .. '<channel>'
  end
  local channel = match(history, PLAIN, at)
  if not channel then
    channel = match(history, TAGGED, at)
    if not channel or sub(channel, 1, 1) == ':' then
      return nil, 'SSEINVALID channel: only [A-Za-z0-9_.:@/=+~-], not beginning with a colon, and at most one {tag}'
    end
  end
  if #channel > 200 then return nil, 'SSEINVALID channel: at most 200 bytes' end
  local live = live_head .. channel
  if keeps and not (may('XADD', history, '', '', '') and may('XDEL', history, '') and may('PEXPIREAT', history, '')) then
    return nil, check { 'XADD', history, 'XDEL', history, 'PEXPIREAT', history }
  end
  if not may(publish, live, '') then return nil, denied(publish, live) end
  return channel, live
end

-- Returns an error if the event type, the data or the idempotency key is invalid, or the user lacks rights to the key.
local function objection(channel, idem, data, event)
  if event ~= '' then
    local problem = misnamed(event)
    if problem then return problem end
  end
  if #data > max_data then return 'SSEINVALID data: ' .. #data .. ' bytes, at most ' .. max_data end
  if idem then
    local head = idem_head .. channel .. '|'
    if sub(idem, 1, #head) ~= head or #idem == #head then
      return 'SSEINVALID keys: the key behind this history must be ' .. head .. '<idempotency key>'
    end
    if #idem > #head + 200 then return 'SSEINVALID idempotency_key: at most 200 bytes' end
    if not (may('GET', idem) and may('SET', idem, '') and may('UNLINK', idem)) then
      return check { 'GET', idem, 'SET', idem, 'UNLINK', idem }
    end
  end
end

-- Returns the id that this idempotency key published before, or an error; else nil and the payload's digest.
local function recall(idem, data, event)
  local payload = redis.sha1hex(event .. '\n' .. data)
  local known = run('GET', idem)
  if not known then return nil, payload end
  if failed(known) then return 'SSEUNDONE ' .. known.err end
  local id, was = match(known, '^(%S+) (%S+)$')
  if was == payload then return id end
  return 'SSECONFLICT idempotency_key: was used here for another payload, published as ' .. tostring(id)
end

local function xadd(history, data, event)
  if event == '' then
    return run('XADD', history, 'NOMKSTREAM', 'MAXLEN', '~', max_len, clock, 'data', data)
  end
  return run('XADD', history, 'NOMKSTREAM', 'MAXLEN', '~', max_len, clock, 'data', data, 'event', event)
end

-- CRC16 (XMODEM) of each four bits.
local CRC16 = {
  0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7, 0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef,
}

local function crc16(text)
  local crc = 0
  local function add(four)
    crc = bit.bxor(bit.band(bit.lshift(crc, 4), 0xffff), CRC16[1 + bit.bxor(bit.rshift(crc, 12), four)])
  end
  for i = 1, #text do
    local byte = string.byte(text, i)
    add(bit.rshift(byte, 4))
    add(bit.band(byte, 15))
  end
  return crc
end

-- Returns an error if the channel belongs to another partition than the current one. Nobody subscribes to it here, so
-- its events would be acknowledged and lost.
local function misplaced(channel)
  local own = tonumber(match(live_head, '{(%d+)}:$'))
  local values = run('HMGET', state, 'partitions')
  if values.err then return 'SSEUNDONE ' .. values.err end
  local count = number(values[1])
  -- Before its first tick, a state does not say how many partitions there are.
  if not count or count == 0 then return nil end
  local right = crc16(match(channel, '{(.+)}') or channel) % count
  if right == own then return nil end
  return 'SSEINVALID channel: belongs to partition ' .. right .. ' of ' .. count .. ', not to ' .. own
end

-- Creates a history with this event. Returns an error, if any.
local function create(history, channel, data, event)
  local problem = check { 'HGET', witness, 'HGET', witness_before, 'UNLINK', history }
  if problem then return problem end
  problem = publish == 'SPUBLISH' and misplaced(channel)
  if problem then return problem end
  local known = run('HGET', witness, channel) or run('HGET', witness_before, channel)
  if failed(known) then return 'SSEUNDONE ' .. known.err end
  local ms, seq = parse_id(known)
  local err
  if ms and ms + lives > math.max(now, clock_ms) and seq >= first_seq and seq < first_seq + COUNTERS then
    -- A history of this epoch vanished before its time. An entry that is added and deleted at once makes the new
    -- history look trimmed, so readers get a gap.
    err = failed(run('XADD', history, '0-1', 'data', '')) or failed(run('XDEL', history, '0-1'))
  end
  if not err and event == '' then
    err = failed(run('XADD', history, clock, 'data', data))
  elseif not err then
    err = failed(run('XADD', history, clock, 'data', data, 'event', event))
  end
  if err then
    run('UNLINK', history)
    return 'SSEUNDONE ' .. err
  end
end

-- The history contains ids that this clock never issued: the state is older than the history. Begins an epoch above
-- them. Returns an error, if any.
local function overtake(history)
  local problem = check { 'XINFO', history, 'HSET', state, 'INFO', 'server' }
  if problem then return problem end
  local info, last = run('XINFO', 'STREAM', history), nil
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = parse_id(info[i + 1]) end
  end
  if not last then return 'SSEUNDONE the last id of ' .. history .. ' is no id of this contract' end
  -- In a batch, the state does not have the latest clock yet.
  local floor = math.max(last, clock_ms)
  local s, life = read_state(), server_life()
  if not s or not life then return 'SSEUNDONE the state cannot be read' end
  local err = begin_epoch(s, life, floor)
  return err and 'SSEUNDONE ' .. err
end

-- Takes the next id and adds the event to its history. Returns the id and whether the history is new; or nil and an
-- error, after which nothing is written and the clock is unchanged.
local function append(history, channel, data, event)
  local before, id = clock, next_id()
  if not keeps then return id end
  local added, problem = xadd(history, data, event), nil
  if added == id then return id end
  if failed(added) and find(added.err, 'equal or smaller', 1, true) then
    set_clock(before)
    problem = overtake(history)
    if problem then return nil, problem end
    before, id = clock, next_id()
    added = xadd(history, data, event)
  end
  if added == false then
    problem = create(history, channel, data, event)
  elseif failed(added) then
    problem = 'SSEUNDONE ' .. added.err
  end
  if problem then
    set_clock(before)
    return nil, problem
  end
  return id, added == false
end

-- Undoes the writes of an event. Returns the error to answer.
local function undo(history, id, made, idem, err)
  local undone = true
  if keeps then undone = not failed(made and run('UNLINK', history) or not made and run('XDEL', history, id)) end
  if idem and failed(run('UNLINK', idem)) then undone = false end
  return (undone and 'SSEUNDONE ' or 'ERR this could not be undone: ') .. err
end

-- KEYS: <prefix>:state, <prefix>:history:<channel> [, <prefix>:idem:<channel>|<key>]
-- ARGV: data [, event type, '' for none [, epoch, '' for any]]
-- Returns the event's id, or an error. After an error with a code of this library, nothing is written.
local function sse_publish(keys, args)
  local history, idem, data, event = keys[2], keys[3], args[1], args[2] or ''
  local problem = enter(keys[1])
  if problem then return fail(problem) end
  if not history or keys[4] then return fail 'SSEINVALID keys: the state, the history and, if there is one, the idempotency key' end
  if not data or args[4] then return fail 'SSEINVALID arguments: data and, if need be, the event type and the epoch' end
  problem = begin(args[3] or '')
  if problem then return fail(problem) end
  local channel, live = locate(history)
  if not channel then return fail(live) end
  if event ~= '' or idem or #data > max_data then
    problem = objection(channel, idem, data, event)
    if problem then return fail(problem) end
  end
  local known, payload
  if idem then
    known, payload = recall(idem, data, event)
    if known then return find(known, ' ', 1, true) and fail(known) or known end
  end
  local id, made = append(history, channel, data, event)
  if not id then return fail(made) end

  -- The clock first. An entry that is undone stays the last id of its history, and a history above the clock would
  -- mean that the state went back in time.
  local done, err, set = run('HSET', state, 'id', id), nil, nil
  if done ~= 0 then err = failed(done) end
  if keeps and not err then
    done = run('PEXPIREAT', history, expiry(clock_ms))
    if done ~= 1 then err = failed(done) end
  end
  if idem and not err then
    err = failed(run('SET', idem, id .. ' ' .. payload, 'PX', idem_ttl))
    set = not err and idem
  end
  if keeps and not err then
    done = run('HSET', witness, channel, id)
    if done ~= 0 then err = failed(done) end
  end
  err = err or failed(run(publish, live, '\255\1' .. id .. '\n' .. event .. '\n' .. data))
  if err then return fail(undo(history, id, made, set, err)) end
  return id
end

-- Returns the histories and the idempotency keys of a batch's events, or nil and an error.
local function sort_keys(keys, count)
  local histories, idems, n, idem_length = {}, {}, 0, #idem_head
  for k = 2, #keys do
    local key = keys[k]
    -- The name of an idempotency key begins differently from that of a history.
    if sub(key, 1, idem_length) ~= idem_head then
      n = n + 1
      histories[n] = key
    elseif n == 0 or idems[n] then
      return nil, 'SSEINVALID keys: ' .. key .. ' does not stand behind its history'
    else
      idems[n] = key
    end
  end
  if n ~= count then return nil, 'SSEINVALID batch: ' .. n .. ' histories for ' .. count .. ' events' end
  return histories, idems
end

-- Writes one event of a batch, except for the writes that all its events share. Returns its id or an error, and if it
-- wrote the event, whether the history is new.
local function write_one(channel, history, idem, data, event)
  local problem, known, payload = objection(channel, idem, data, event), nil, nil
  if problem then return problem end
  if idem then
    known, payload = recall(idem, data, event)
    if known then return known end
  end
  local id, made = append(history, channel, data, event)
  if not id then return made end
  local err = idem and failed(run('SET', idem, id .. ' ' .. payload, 'PX', idem_ttl))
  if err then return undo(history, id, made, nil, err) end
  return id, made or false
end

-- KEYS: the state, then for each event its history and, if it has one, its idempotency key.
-- ARGV: epoch or '', then data and event type or '' for each event.
-- Returns one text per event, in order: its id or its error. An error of the call itself applies to all events.
local function sse_publish_batch(keys, args)
  local problem = enter(keys[1])
  if problem then return fail(problem) end
  local count = (#args - 1) / 2
  if count < 1 or count > MAX_BATCH or count % 1 ~= 0 then
    return fail('SSEINVALID batch: the epoch, then data and event type of 1 to ' .. MAX_BATCH .. ' events')
  end
  local histories, idems = sort_keys(keys, count)
  problem = not histories and idems or begin(args[1])
  if problem then return fail(problem) end

  -- First what each event needs by itself: here one event can fail without the others.
  local answers, made_of, channel_of, live_of, last_of, last_ms, before = {}, {}, {}, {}, {}, {}, clock
  for i = 1, count do
    local history, channel = histories[i], channel_of[histories[i]]
    if not channel then
      local live
      channel, live = locate(history)
      if channel then channel_of[history], live_of[history] = channel, live else answers[i] = live end
    end
    if channel then
      local answer, made = write_one(channel, history, idems[i], args[2 * i], args[2 * i + 1])
      answers[i], made_of[i] = answer, made
      if made ~= nil then last_of[history], last_ms[history] = answer, clock_ms end
    end
  end

  -- Then the writes that the events share. The clock comes first, as in sse_publish.
  local err = clock ~= before and failed(run('HSET', state, 'id', clock)) or nil
  if keeps and next(last_of) then
    local known, length = { 'HSET', witness }, 2
    for history, id in pairs(last_of) do
      err = err or failed(run('PEXPIREAT', history, expiry(last_ms[history])))
      known[length + 1], known[length + 2] = channel_of[history], id
      length = length + 2
    end
    err = err or failed(run(unpack(known)))
  end

  -- The live events come last, in order.
  local undone = {}
  for i = 1, count do
    local id, history = answers[i], histories[i]
    if made_of[i] == nil then
      -- The answer may be the id of an earlier event with the same idempotency key, which may be undone by now.
      answers[i] = undone[id] or id
    else
      local failure = err
        or failed(run(publish, live_of[history], '\255\1' .. id .. '\n' .. args[2 * i + 1] .. '\n' .. args[2 * i]))
      if failure then
        -- If only this event fails, its new history may contain others, so it must stay.
        answers[i] = undo(history, id, err and made_of[i], idems[i], failure)
        undone[id] = answers[i]
      end
    end
  end
  return answers
end

-- For gateways and operators. A script that publishes ends above this line.

local LIMITS = { 'max_len', 'ttl', 'max_data', 'idem_ttl', 'durable' }

-- Returns the nine arguments that every call of a gateway begins with, or nil and an error.
local function caller_of(args)
  if args[9] ~= tostring(CONTRACT_VERSION) then
    return nil, 'SSEMISMATCH version: the library in Redis speaks contract version ' .. CONTRACT_VERSION .. ', this gateway another'
  end
  local g = { beat = number(args[2]), partitions = number(args[8]) }
  g.seen_ms, g.seen_seq = parse_id(args[1])
  for i, field in ipairs(LIMITS) do g[field] = number(args[2 + i]) end
  for _, field in ipairs(LIMITS) do
    if not g[field] then return nil, 'SSEINVALID arguments: ' .. field end
  end
  if not g.partitions then return nil, 'SSEINVALID arguments: partitions' end
  return g
end

-- Returns the witness' ids of these channels, by channel, the younger generation first; and whether the hash of the
-- current generation has its mark. Returns nil and an error if it cannot be read, as while Redis Cluster moves it: that
-- does not prove that it is gone. Without channels the older generation is not asked: while Redis Cluster moves the
-- partition, a hash that was never there could not be told from one that has gone, and every tick would fail.
local function witnessed(s, channels)
  local found, marked, last = {}, false, s.known or 0
  for generation = last, #channels == 0 and last or last - 1, -1 do
    local name = known_name(generation)
    -- `unpack` can pass only some thousands of arguments.
    for first = 0, #channels, 1000 do
      local some = { MARK }
      for i = first + 1, math.min(first + 1000, #channels) do some[#some + 1] = channels[i] end
      local ids = run('HMGET', name, unpack(some))
      if ids.err and not find(ids.err, '^WRONGTYPE') then return nil, 'SSEUNDONE ' .. ids.err end
      if not ids.err then
        if generation == s.known then marked = ids[1] ~= false end
        for i = 2, #some do
          if ids[i] and not found[some[i]] then found[some[i]] = parse_id(ids[i]) and ids[i] or nil end
        end
      end
    end
  end
  return found, marked
end

-- Whether Redis may have lost acknowledged writes since the state was written. `moved` says that Redis Cluster moved
-- the partition here from the process that wrote the state: that moves every key as it is.
local function is_lost(s, g, life, marked, moved, highest_ms, highest_seq)
  if not s.clock or not s.run or not s.ttl or not s.beat or s.version ~= CONTRACT_VERSION then return true end
  if moved then
    -- This server was promoted out of a replica of the one that it is said to have been moved from.
    if s.replid == life.former then return true end
  elseif s.run ~= life.run then
    -- `durable` is the operator's word that acknowledged writes survive a restart. It does not cover evictions.
    if s.durable ~= 1 or life.evicted ~= '0' then return true end
  else
    if s.evicted ~= life.evicted then return true end
    -- CONFIG RESETSTAT may have hidden evictions. Redis evicts only where it has a `maxmemory`.
    if (number(life.commands) or 0) < (s.commands or 0) then
      local memory = run('INFO', 'memory')
      if type(memory) ~= 'string' or not find(memory, '\nmaxmemory:0\r') then return true end
    end
  end
  -- A failover, perhaps one that ended at the same process.
  if not moved and s.replid ~= life.replid and life.promoted then return true end
  -- The state went back in time. Within an epoch only ticks raise the count, so no publish can have hidden that.
  if g.beat and g.beat > (s.beat or 0) then return true end
  if above(highest_ms, highest_seq, clock_ms, clock_seq) then return true end
  return not marked
end

-- Starts every call of a gateway. Returns the gateway's arguments and the state, or nil and an error.
local function admit(args)
  local g, problem = caller_of(args)
  if not g then return nil, problem end
  local s
  s, problem = read_state()
  problem = problem or foreign(s)
  if problem then return nil, problem end
  if s.partitions and s.partitions ~= g.partitions then
    return nil, 'SSEMISMATCH partitions: Redis holds ' .. s.partitions .. ', this gateway is configured for ' .. g.partitions
  end
  local n = s.known or 0
  problem = check {
    'HSET', state, 'HINCRBY', state, 'HMGET', known_name(n), 'HMGET', known_name(n - 1), 'HSET', known_name(n + 1),
    'UNLINK', known_name(n), 'UNLINK', known_name(n - 1), 'UNLINK', known_name(n + 1), 'INFO', 'server',
  } or set_now()
  if problem then return nil, problem end
  return g, s
end

-- The highest of these ids: the one that the gateway has seen, the last ids of histories (two numbers each), and the
-- witness' ids.
local function highest(g, lasts, found)
  local most_ms, most_seq = g.seen_ms or 0, g.seen_seq or 0
  local function reach(ms, seq)
    if ms and above(ms, seq, most_ms, most_seq) then most_ms, most_seq = ms, seq end
  end
  for i = 1, #lasts, 2 do reach(lasts[i], lasts[i + 1]) end
  for _, id in pairs(found) do reach(parse_id(id)) end
  return most_ms, most_seq
end

-- Begins an epoch if Redis may have lost acknowledged writes, converts and completes the state, and raises the clock
-- to the time. `lasts` holds the last ids of histories, two numbers each. The returned state's `witnessed` has the
-- witness' ids of `channels`. Returns nil and an error if it fails.
local function settle(args, lasts, channels, from)
  local g, s = admit(args)
  if not g then return nil, s end
  local life = server_life()
  if not life or life.run == '' then return nil, 'SSEUNDONE Redis does not tell INFO' end
  if from == '?' and s.run and s.run ~= life.run then
    return nil, 'SSESTRANGE ' .. s.run .. ' ' .. (s.replid or '-') .. ' wrote the state, this is ' .. life.run
  end
  local found, marked = witnessed(s, channels)
  if not found then return nil, marked end
  local most_ms, most_seq = highest(g, lasts, found)
  local moved = from ~= nil and from ~= '' and s.run == from
  local lost = is_lost(s, g, life, marked, moved, most_ms, most_seq)

  local changes = { 'HSET', state }
  local function put(field, value)
    changes[#changes + 1], changes[#changes + 2] = field, value
  end
  for _, field in ipairs(LIMITS) do
    if not s[field] then
      s[field] = g[field]
      put(field, decimal(s[field]))
    end
  end
  if s.version ~= CONTRACT_VERSION then put('version', tostring(CONTRACT_VERSION)) end
  if not s.partitions then put('partitions', decimal(g.partitions)) end
  local err
  if lost then
    s.beat = math.max(s.beat or 0, g.beat or 0)
    err = begin_epoch(s, life, most_ms)
  else
    if s.run ~= life.run then put('run', life.run) end
    if s.replid ~= life.replid then put('replid', life.replid) end
    if s.evicted ~= life.evicted then put('evicted', life.evicted) end
    put('commands', life.commands)
  end
  if now > clock_ms then
    set_clock(now_text .. '-' .. decimal(first_seq))
    put('id', clock)
  end
  -- A hash without its mark is incomplete.
  if not marked then err = err or failed(run('UNLINK', known_name(s.known or 0))) end
  if not marked or generation_is_over(s) then err = err or begin_generation(s) end
  local text = limits_text(s)
  if s.publishing ~= text then put('publishing', text) end
  if #changes > 2 then err = err or failed(run(unpack(changes))) end
  if err then return nil, 'SSEUNDONE ' .. err end
  s.witnessed = found
  return s
end

-- KEYS: the state. ARGV: the gateway's nine arguments; in a Redis Cluster a tenth: '?', or the run id of the process
-- that the partition was moved from. With '?', the answer is SSESTRANGE with the run id and the replication id of the
-- process that wrote the state, if another one did. Then the gateway can find out whether the partition was moved
-- (`from`) or its data were lost ('').
-- Returns clock, time in ms, max_len, ttl in ms, max_data, idem_ttl in ms, durable, beat.
local function sse_tick(keys, args)
  local problem = enter(keys[1])
  if problem then return fail(problem) end
  local s
  s, problem = settle(args, {}, {}, args[10])
  if not s then return fail(problem) end
  -- Only this and a new epoch raise the count. So a gateway that finds it lower knows that the state went back in time.
  local beat = run('HINCRBY', state, 'beat', 1)
  if failed(beat) then return fail('SSEUNDONE ' .. beat.err) end
  return { clock, now, s.max_len, s.ttl, s.max_data, s.idem_ttl, s.durable, beat }
end

-- Returns a history's channel and, if the history exists, its numbers; or in `why` the reason that it cannot be read.
local function stream_info(history)
  local channel = sub(history, #history_head + 1)
  if sub(history, 1, #history_head) ~= history_head or channel == '' then
    return { why = history .. ' is not a history of this state' }
  end
  local there = run('EXISTS', history)
  if failed(there) then return { why = there.err } end
  if there == 0 then return { channel = channel } end
  local raw = run('XINFO', 'STREAM', history)
  if raw.err then return { why = raw.err } end
  local found = {}
  for i = 1, #raw, 2 do found[raw[i]] = raw[i + 1] end
  local last = found['last-generated-id']
  local ms, seq = parse_id(last)
  if not ms then return { why = 'its last id, ' .. last .. ', is no id of this contract' } end
  return {
    channel = channel, last = last, ms = ms, seq = seq, length = found['length'], added = found['entries-added'],
    oldest = found['first-entry'] and found['first-entry'][1] or '',
  }
end

-- Appends an entry's id, data and event type to `entries`. Returns the bytes to count for it, or nil and the reason
-- that it cannot be read.
local function add_entry(entries, entry)
  if not parse_id(entry[1]) then return nil, 'an entry\'s id, ' .. entry[1] .. ', is no id of this contract' end
  local fields, data, event = entry[2], '', ''
  for f = 1, #fields, 2 do
    if fields[f] == 'data' then data = fields[f + 1] elseif fields[f] == 'event' then event = fields[f + 1] end
  end
  local n = #entries
  entries[n + 1], entries[n + 2], entries[n + 3] = entry[1], data, event
  return #data + 64
end

-- Returns a history's entries above a position, at least one and up to `most` bytes; 1 if they are cut, else 0; their
-- bytes; and the reason, if they cannot be read.
local function read_entries(history, after, most)
  local entries, total, count = {}, 0, most > 0 and 16 or 1
  while true do
    local chunk = run('XRANGE', history, '(' .. after, '+', 'COUNT', count)
    if chunk.err then return entries, 0, total, chunk.err end
    for _, entry in ipairs(chunk) do
      if total > 0 and total >= most then return entries, 1, total end
      local bytes, why = add_entry(entries, entry)
      if not bytes then return entries, 0, total, why end
      total, after = total + bytes, entry[1]
    end
    if #chunk < count then return entries, 0, total end
    if total >= most then return entries, 1, total end
    if count < 256 then count = count * 2 end
  end
end

-- Returns the two youngest entries above a position, in the form of read_entries.
local function read_youngest(history, after)
  local entries, total = {}, 0
  local two = run('XREVRANGE', history, '+', '(' .. after, 'COUNT', 2)
  if two.err then return entries, 0, total, two.err end
  for i = #two, 1, -1 do
    local bytes, why = add_entry(entries, two[i])
    if not bytes then return entries, 0, total, why end
    total = total + bytes
  end
  return entries, 0, total
end

-- Reads histories in one atomic step. KEYS: the state, then one history per range. ARGV: the gateway's nine arguments,
-- the most bytes of one range, the most bytes of all, then one position per range: '0-0' for the oldest entry, and a
-- '~' before the position for only the two youngest entries above it.
-- Returns clock, time, max_len, ttl, and for each range
--   { last id or '', oldest id or '', entries-added, length, more, entries }
-- where `entries` is id, data, event type or '', … in order, and `more` is 1 if the range was cut; or { why } for a
-- history that cannot be read. A range with events has at least one, whatever the limits, so a reader always moves on.
-- If the witness knows a younger event than the history, `last` is that event's id, and entries-added is one too high:
-- the reader then finds the history incomplete.
local function sse_read(keys, args)
  local problem = enter(keys[1])
  if problem then return fail(problem) end
  local infos, lasts, channels = {}, {}, {}
  for i = 2, #keys do
    if not infos[keys[i]] then
      local info = stream_info(keys[i])
      infos[keys[i]] = info
      if info.channel then channels[#channels + 1] = info.channel end
      if info.last then lasts[#lasts + 1], lasts[#lasts + 2] = info.ms, info.seq end
    end
  end
  local s
  s, problem = settle(args, lasts, channels)
  if not s then return fail(problem) end
  local range_bytes, left = number(args[10]), number(args[11])
  if not range_bytes or not left then return fail 'SSEINVALID arguments: bytes a range, bytes in all' end

  local out = { clock, now, s.max_len, s.ttl }
  for i = 2, #keys do
    local history, info = keys[i], infos[keys[i]]
    local youngest, after = match(args[10 + i] or '', '^(~?)(.*)$')
    local from_ms, from_seq = parse_id(after)
    if not from_ms then return fail('SSEINVALID range ' .. (i - 1) .. ': not a position: ' .. after) end
    local entries, more, bytes, why = {}, 0, 0, info.why
    if info.last and youngest == '~' then
      entries, more, bytes, why = read_youngest(history, after)
    elseif info.last and above(info.ms, info.seq, from_ms, from_seq) then
      entries, more, bytes, why = read_entries(history, after, math.min(range_bytes, left))
    end
    left = left - bytes
    local last, added, known = info.last, info.added or 0, s.witnessed[info.channel]
    if known then
      local ms, seq = parse_id(known)
      if not last or above(ms, seq, info.ms, info.seq) then last, added = known, added + 1 end
    end
    out[#out + 1] = why and { why } or { last or '', info.oldest or '', added, info.length or 0, more, entries }
  end
  return out
end

-- Begins an epoch in the current partition, and sets other limits if given.
local function operate(limits_to_set)
  local s, problem = read_state()
  problem = problem or foreign(s)
  if problem then return fail(problem) end
  local n = s.known or 0
  problem = check {
    'HSET', state, 'HSET', known_name(n + 1), 'UNLINK', known_name(n - 1), 'UNLINK', known_name(n + 1), 'INFO', 'server',
  } or set_now()
  if problem then return fail(problem) end
  local life = server_life()
  if not life then return fail 'SSEUNDONE Redis does not tell INFO' end
  local err = begin_epoch(s, life, 0)
  if limits_to_set then
    for field, value in pairs(limits_to_set) do
      s[field] = value
      err = err or failed(run('HSET', state, field, decimal(value)))
    end
    if generation_is_over(s) then err = err or begin_generation(s) end
    err = err or failed(run('HSET', state, 'publishing', limits_text(s)))
  end
  return err and fail('SSEUNDONE ' .. err) or clock
end

-- KEYS: the state. Begins an epoch for an operator, for example after somebody deleted a history. Returns the clock.
local function sse_fence(keys)
  local problem = enter(keys[1])
  return problem and fail(problem) or operate()
end

-- KEYS: the state. ARGV: max_len, ttl in ms, max_data, idem_ttl in ms, durable. Writes the limits and begins an epoch,
-- because the new limits cannot tell whether a history kept under the old ones is complete. Returns the clock.
local function sse_settings(keys, args)
  local problem = enter(keys[1])
  if problem then return fail(problem) end
  if #args ~= #LIMITS then return fail('SSEINVALID arguments: ' .. table.concat(LIMITS, ', ')) end
  local wanted = {}
  for i, field in ipairs(LIMITS) do
    wanted[field] = number(args[i])
    if not wanted[field] then return fail('SSEINVALID ' .. field .. ': a whole number, at least 0') end
  end
  return operate(wanted)
end

local function sse_version()
  return LIBRARY_VERSION
end

-- Without 'allow-oom', a full Redis refuses only publishing. Ticks and reads write a few bytes at most, and connected
-- clients depend on them.
if redis.register_function then
  redis.register_function('sse_publish', sse_publish)
  redis.register_function('sse_publish_batch', sse_publish_batch)
  redis.register_function { function_name = 'sse_tick', callback = sse_tick, flags = { 'allow-oom' } }
  redis.register_function { function_name = 'sse_read', callback = sse_read, flags = { 'allow-oom' } }
  redis.register_function { function_name = 'sse_fence', callback = sse_fence, flags = { 'allow-oom' } }
  redis.register_function { function_name = 'sse_settings', callback = sse_settings, flags = { 'allow-oom' } }
  redis.register_function { function_name = 'sse_version', callback = sse_version, flags = { 'no-writes' } }
end
