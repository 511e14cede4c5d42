"""What Redis runs as one step, in Lua: nothing comes between, and a kill leaves all of it or nothing.

Keys, in this order in every script of the stream:

* `stream`: entries, each a record; deleted when it is done.
* `images`, `uses`: image name → bytes, image name → entries that need them; both go with the last of those.
* `totals`: `bytes` of `images`.
* `dead`: entries put aside, with `reason` and `deliveries`.
"""

_KEYS = "local stream, images, uses, totals, dead = unpack(KEYS)\n"

UNKNOWN = (
    _KEYS
    + """
-- Which of the images named ARGV Redis does not have.
local unknown = {}
for _, name in ipairs(ARGV) do
  if redis.call('HEXISTS', images, name) == 0 then unknown[#unknown + 1] = name end
end
return unknown
"""
)

PUT = (
    _KEYS
    + """
-- ARGV: most entries, most bytes; for each record: id, body, image name, image, problem.
-- All records or none: {'put', entries without image} | {'full', entries, bytes} | {'image', name that lacks it}.
local most_entries, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local waiting = redis.call('XLEN', stream) + redis.call('XLEN', dead)
local bytes = tonumber(redis.call('HGET', totals, 'bytes') or '0')
local seen, added, count = {}, 0, 0
for i = 3, #ARGV, 5 do
  local name, image = ARGV[i + 2], ARGV[i + 3]
  count = count + 1
  if name ~= '' and not seen[name] then
    seen[name] = true
    if redis.call('HEXISTS', images, name) == 0 then
      if image == '' then return {'image', name} end
      added = added + #image
    end
  end
end
-- Into an empty stream anything goes, or a large image would wait for ever.
if (waiting > 0 and waiting + count > most_entries) or (bytes > 0 and bytes + added > most_bytes) then
  return {'full', waiting, bytes}
end
local repeats = 0
for i = 3, #ARGV, 5 do
  local name, image = ARGV[i + 2], ARGV[i + 3]
  if name ~= '' then
    if redis.call('HINCRBY', uses, name, 1) == 1 then
      redis.call('HSET', images, name, image)
      redis.call('HINCRBY', totals, 'bytes', #image)
    else
      repeats = repeats + 1
    end
  end
  local length = redis.call('HSTRLEN', images, name)
  redis.call('XADD', stream, '*', 'record', ARGV[i], 'body', ARGV[i + 1], 'image', name,
    'bytes', length, 'problem', ARGV[i + 4])
end
return {'put', repeats}
"""
)

DONE = (
    _KEYS
    + """
-- ARGV: group; for each entry: its key, name of the image it uses or ''.
for i = 2, #ARGV, 2 do
  local key, name = ARGV[i], ARGV[i + 1]
  redis.call('XACK', stream, ARGV[1], key)
  -- Whoever deletes it gives its use back; another drainer may have had it, too.
  if redis.call('XDEL', stream, key) == 1 and name ~= ''
      and redis.call('HINCRBY', uses, name, -1) <= 0 then
    redis.call('HINCRBY', totals, 'bytes', 0 - redis.call('HSTRLEN', images, name))
    redis.call('HDEL', images, name)
    redis.call('HDEL', uses, name)
  end
end
-- Entries that somebody else deleted left their uses behind.
if redis.call('XLEN', stream) == 0 and redis.call('XLEN', dead) == 0 then
  redis.call('DEL', images, uses, totals)
end
"""
)

BURY = (
    _KEYS
    + """
-- ARGV: group, reason; for each entry: its key, deliveries. The entry keeps the use of its image.
for i = 3, #ARGV, 2 do
  local entry = redis.call('XRANGE', stream, ARGV[i], ARGV[i])[1]
  if entry then
    local fields = entry[2]
    for _, value in ipairs({'reason', ARGV[2], 'deliveries', ARGV[i + 1]}) do fields[#fields + 1] = value end
    redis.call('XADD', dead, '*', unpack(fields))
    redis.call('XDEL', stream, ARGV[i])
  end
  redis.call('XACK', stream, ARGV[1], ARGV[i])
end
"""
)

REVIVE = (
    _KEYS
    + """
local entries = redis.call('XRANGE', dead, '-', '+', 'COUNT', 1000)
for _, entry in ipairs(entries) do
  redis.call('XADD', stream, '*', unpack(entry[2], 1, #entry[2] - 4))
  redis.call('XDEL', dead, entry[1])
end
return #entries
"""
)

LEASE = """
-- KEYS: the counts of windows. ARGV: for each, tokens asked for, the limit, seconds to keep the count.
local granted = {}
for i, key in ipairs(KEYS) do
  local asked, limit = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1])
  granted[i] = math.max(math.min(asked, limit - tonumber(redis.call('GET', key) or '0')), 0)
  if granted[i] > 0 then
    redis.call('INCRBY', key, granted[i])
    redis.call('EXPIRE', key, ARGV[3 * i])
  end
end
return granted
"""

GIVE_BACK = """
-- KEYS: the counts of windows. ARGV: tokens given back to each.
for i, key in ipairs(KEYS) do
  local leased = tonumber(redis.call('GET', key) or '0')
  if leased > 0 then redis.call('DECRBY', key, math.min(tonumber(ARGV[i]), leased)) end
end
"""
