-- Heartbeats of 10,000 agents that beat at the station, for wrk:
-- wrk -t2 -c64 -d60s --latency -s examples/station-load/heartbeats.lua http://127.0.0.1:8090/
-- KEY is one of AGENT_API_KEY.
local key = os.getenv("KEY") or "a-key-for-agents"
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init()
  sent = 0
end

function request()
  sent = sent + 1
  local path = string.format("/api/agents/00000000-0000-4000-8000-%06d%06d/heartbeat", id, sent % 5000)
  local body = string.format('{"mode":"IDLE","uptime_seconds":%d.5,"agent_name":"agent"}', sent)
  return wrk.format("POST", path, { ["Authorization"] = "Bearer " .. key }, body)
end
