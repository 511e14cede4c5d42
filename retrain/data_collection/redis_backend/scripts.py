"""What Redis runs as one step, in Lua: nothing comes between, and a kill leaves all of it or nothing.

Keys, in this order in every script of the stream:

* `stream`: entries, each a record; deleted when it is done.
* `images`, `uses`: image name → bytes, image name → entries that need them; both go with the last of those.
* `totals`: `bytes` of `images`.
* `today`, `yesterday`: image name → "<width>x<height>" of images in the index, by the day they were last seen.
* `dead`: entries put aside, with `reason` and `deliveries`.
"""

_KEYS = "local stream, images, uses, totals, today, yesterday, dead = unpack(KEYS)\n"

_REMEMBER = """
local function remember(name, size, most)
  if redis.call('HEXISTS', today, name) == 1 or redis.call('HLEN', today) < most then
    redis.call('HSET', today, name, size)
    redis.call('EXPIRE', today, 172800)
  end
end
"""

UNKNOWN = (
    _KEYS
    + """
-- Which of the images named ARGV Redis has neither the image of nor knows to be stored.
local unknown = {}
for _, name in ipairs(ARGV) do
  if redis.call('HEXISTS', images, name) == 0 and redis.call('HEXISTS', today, name) == 0
      and redis.call('HEXISTS', yesterday, name) == 0 then
    unknown[#unknown + 1] = name
  end
end
return unknown
"""
)

PUT = (
    _KEYS
    + _REMEMBER
    + """
-- ARGV: most entries, most bytes, most remembered; for each record: id, body, image name, image, problem.
-- All records or none: {'put', entries without image} | {'full', entries, bytes} | {'image', name that lacks it}.
local most_entries, most_bytes, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local waiting = redis.call('XLEN', stream) + redis.call('XLEN', dead)
local bytes = tonumber(redis.call('HGET', totals, 'bytes') or '0')
local sizes, seen, added, count = {}, {}, 0, 0
for i = 4, #ARGV, 5 do
  local name, image = ARGV[i + 2], ARGV[i + 3]
  count = count + 1
  if name ~= '' and not seen[name] then
    seen[name] = true
    if redis.call('HEXISTS', images, name) == 0 then
      sizes[name] = redis.call('HGET', today, name) or redis.call('HGET', yesterday, name) or nil
      if not sizes[name] then
        if image == '' then return {'image', name} end
        added = added + #image
      end
    end
  end
end
-- Into an empty stream anything goes, or a large image would wait for ever.
if (waiting > 0 and waiting + count > most_entries) or (bytes > 0 and bytes + added > most_bytes) then
  return {'full', waiting, bytes}
end
local repeats = 0
for i = 4, #ARGV, 5 do
  local name, image, size = ARGV[i + 2], ARGV[i + 3], ''
  if name ~= '' then
    size = sizes[name] or ''
    if size ~= '' then
      remember(name, size, most)
      repeats = repeats + 1
    elseif redis.call('HINCRBY', uses, name, 1) == 1 then
      redis.call('HSET', images, name, image)
      redis.call('HINCRBY', totals, 'bytes', #image)
    else
      repeats = repeats + 1
    end
  end
  local length = redis.call('HSTRLEN', images, name)
  redis.call('XADD', stream, '*', 'record', ARGV[i], 'body', ARGV[i + 1], 'image', name,
    'size', size, 'bytes', length, 'problem', ARGV[i + 4])
end
return {'put', repeats}
"""
)

DONE = (
    _KEYS
    + _REMEMBER
    + """
-- ARGV: group, most remembered; for each entry: its key, image name, '1' if it uses the image, size if it is stored.
local group, most = ARGV[1], tonumber(ARGV[2])
for i = 3, #ARGV, 4 do
  local key, name, size = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  redis.call('XACK', stream, group, key)
  -- Whoever deletes it gives its use back; another drainer may have had it, too.
  if redis.call('XDEL', stream, key) == 1 and ARGV[i + 2] == '1'
      and redis.call('HINCRBY', uses, name, -1) <= 0 then
    redis.call('HINCRBY', totals, 'bytes', 0 - redis.call('HSTRLEN', images, name))
    redis.call('HDEL', images, name)
    redis.call('HDEL', uses, name)
  end
  if size ~= '' then remember(name, size, most) end
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
