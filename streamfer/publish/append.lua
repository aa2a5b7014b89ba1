-- Appends the records of a partition that are not marked yet, and marks them.
--
-- The id is marked after the append: were it before, an append that fails (memory full) would leave a mark that
-- turns the retry into a "duplicate" of nothing. A script is atomic, so no one sees the state between, and whatever a
-- slot's move or a failover does in between, the records of a partition stay in order. An empty mark ahead of the first
-- append counts as none: who may append and not mark would append again with each attempt.
--
-- The mark is the number that the record came with, as text of one width. A higher one, as of a later run over the same
-- file, would leave a hole in its source's: those behind it move up, by what is remembered beside the marks and lost
-- with them alone.
--
-- Nothing is done on another run of the server than is known: what that may have forgotten is sent again first.
--
-- KEYS: how far numbers moved, the marks of the records, their streams. ARGV: seconds that marks last, the server's run
-- as it is known, the records as MessagePack: [place of the stream in KEYS, most entries, source, number, fields...].
-- Returns the run of this server, and for each record 1 where it is new, else 0.
local said = redis.pcall('INFO', 'server')
local run = type(said) == 'string' and string.match(said, 'run_id:(%x+)') or ''
if ARGV[2] ~= '' and ARGV[2] ~= run then
  return {run}
end
local replies, tried = {run}, false
local moved = redis.call('EXISTS', KEYS[1]) == 1
for i, record in ipairs(cmsgpack.unpack(ARGV[3])) do
  local stream, most, source, number = unpack(record, 1, 4)
  local mark = KEYS[i + 1]
  local known = redis.call('GET', mark)
  if known == '' then
    known = false
  end
  if not known then
    if not tried then
      redis.call('SET', mark, '', 'EX', ARGV[1])
      tried = true
    end
    local by = moved and redis.call('HGET', KEYS[1], source)
    if by then
      redis.call('EXPIRE', KEYS[1], ARGV[1])
      for j = 5, #record, 2 do
        if record[j] == 'ce_sequence' then
          record[j + 1] = string.format('%020.0f', tonumber(number) - by)
        end
      end
    end
    redis.call('XADD', KEYS[stream], 'MAXLEN', '~', most, '*', unpack(record, 5))
    redis.call('SET', mark, number, 'EX', ARGV[1])
  elseif number > known then
    redis.call('SET', mark, number, 'EX', ARGV[1])
    redis.call('HINCRBY', KEYS[1], source, 1)
    redis.call('EXPIRE', KEYS[1], ARGV[1])
    moved = true
  end
  replies[i + 1] = known and 0 or 1
end
return replies
