-- Alerts of 60,000 agents in 20 clusters, each alert another one, for wrk:
-- wrk -t2 -c64 -d60s --latency -s examples/station-load/alerts.lua http://127.0.0.1:8090/
-- KEY is one of PAP_COLLECTOR_API_KEY.
local key = os.getenv("KEY") or "a-key-for-collectors"
local kinds = {
  { "AGENT_DEATH", "critical" }, { "EMERGENCY_MODE", "warning" },
  { "RESTART_DETECTED", "info" }, { "AGENT_DEATH", "critical" },
}
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
  local cluster = "c" .. sent % 20
  local kind = kinds[sent % 4 + 1]
  local at = os.date("!%Y-%m-%dT%H:%M:%S", os.time()) .. string.format(".%03dZ", sent % 1000)
  local body = string.format(
    '{"type":"%s","agent_uuid":"00000000-0000-4000-8000-%06d%06d","agent_name":"agent %d","cluster_id":"%s",' ..
    '"severity":"%s","details":{"mode":"IDLE","last_seen":"%s"},"timestamp":"%s","event_id":"%d-%d"}',
    kind[1], id, sent % 30000, sent, cluster, kind[2], at, at, id, sent)
  return wrk.format("POST", "/api/clusters/" .. cluster .. "/alerts", { ["Authorization"] = "Bearer " .. key }, body)
end
