-- How far a group has read each source, by the numbers of its records: members write the highest, in any order. Answers
-- whether nothing older than the entry ARGV[1] is left in the stream, and what was known of each source before.
local older = redis.call('XRANGE', KEYS[1], '-', ARGV[1], 'COUNT', 1)
local reply = {(not older[1] or older[1][1] == ARGV[1]) and 1 or 0}
for at = 3, #ARGV, 3 do
  local known = redis.call('HGET', KEYS[2], ARGV[at])
  reply[#reply + 1] = known or ''
  local number = known and tonumber(string.match(known, '^%d+')) or -1
  if tonumber(ARGV[at + 1]) > number then
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1] .. ' ' .. ARGV[at + 2])
  end
end
redis.call('EXPIRE', KEYS[2], ARGV[2])
return reply
