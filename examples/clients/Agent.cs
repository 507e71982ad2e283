// Heartbeats of a PAP agent in C#, with the standard library alone.
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.Net.Http;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

public sealed class Heartbeats
{
    static readonly Dictionary<string, double> Interval = new Dictionary<string, double> { ["EMERGENCY"] = 5, ["IDLE"] = 30, ["SLEEP"] = 900 }; // seconds

    readonly HttpClient client = new HttpClient { Timeout = Timeout.InfiniteTimeSpan };
    readonly Stopwatch clock = Stopwatch.StartNew(); // monotonic
    readonly SemaphoreSlim wake = new SemaphoreSlim(0);
    readonly Random random = new Random();
    readonly string name;
    readonly Tuple<string, string> collector, station;
    volatile string mode;
    volatile bool isStopping;

    public Heartbeats(string id, string name, string mode)
    {
        var agent = Uri.EscapeDataString(id);
        this.name = name;
        this.mode = mode;
        collector = Target("PAP_COLLECTOR_URL", "/heartbeat/" + agent, "PAP_COLLECTOR_KEY");
        station = Target("PAP_STATION_URL", "/api/agents/" + agent + "/heartbeat", "PAP_AGENT_KEY");
    }

    static Tuple<string, string> Target(string url, string path, string key)
    {
        var start = Environment.GetEnvironmentVariable(url);
        return string.IsNullOrEmpty(start) ? null : Tuple.Create(start + path, Environment.GetEnvironmentVariable(key));
    }

    public void SetMode(string mode) { this.mode = mode; wake.Release(); } // told at once

    public void Stop() { isStopping = true; wake.Release(); } // with a goodbye: a planned stop is no death

    async Task<bool> Call(Tuple<string, string> to, HttpMethod method, double seconds)
    {
        if (to == null) return false;
        var uptime = clock.Elapsed.TotalSeconds.ToString("F3", CultureInfo.InvariantCulture);
        var body = "{\"mode\":\"" + mode + "\",\"uptime_seconds\":" + uptime + ",\"agent_name\":\"" + name + "\"}";
        try
        {
            using (var request = new HttpRequestMessage(method, to.Item1))
            using (var timeout = new CancellationTokenSource(TimeSpan.FromSeconds(seconds)))
            {
                if (method == HttpMethod.Post) request.Content = new StringContent(body, Encoding.UTF8, "application/json");
                if (!string.IsNullOrEmpty(to.Item2)) request.Headers.Add("Authorization", "Bearer " + to.Item2);
                using (var answer = await client.SendAsync(request, timeout.Token)) return answer.IsSuccessStatusCode;
            }
        }
        catch (Exception failed) when (failed is HttpRequestException || failed is OperationCanceledException) { return false; }
    }

    // The collector, once more, then the station; together at most 5 s.
    async Task<bool> Beat()
    {
        return await Call(collector, HttpMethod.Post, 2) || await Call(collector, HttpMethod.Post, 1) || await Call(station, HttpMethod.Post, 2);
    }

    public async Task Run()
    {
        // Many that start together do not beat together: the first two beats are at random moments.
        var due = clock.Elapsed.TotalSeconds + random.NextDouble() * Math.Min(Interval[mode] / 10, 3);
        for (var isFirst = true; ; isFirst = false)
        {
            var wait = TimeSpan.FromSeconds(Math.Max(0, due - clock.Elapsed.TotalSeconds));
            if (await wake.WaitAsync(wait)) due = clock.Elapsed.TotalSeconds;
            if (isStopping) break;
            var isTaken = await Beat();
            var interval = Interval[mode];
            var step = isFirst ? interval * random.NextDouble() : isTaken ? interval : interval / 4;
            due = Math.Max(due + step, clock.Elapsed.TotalSeconds); // after a pause one beat, not all that were missed
        }
        await Call(collector, HttpMethod.Delete, 2);
    }
}

public static class Agent
{
    public static void Main()
    {
        var mode = Environment.GetEnvironmentVariable("HEARTBEAT_MODE") ?? "IDLE";
        var heartbeats = new Heartbeats(Environment.GetEnvironmentVariable("PAP_AGENT_ID"), "an agent in C#", mode);
        var run = Task.Run(heartbeats.Run); // beside it the agent works
        Console.CancelKeyPress += (sender, cancel) => { cancel.Cancel = true; heartbeats.Stop(); };
        AppDomain.CurrentDomain.ProcessExit += (sender, exit) => { heartbeats.Stop(); run.Wait(10000); }; // SIGTERM
        run.Wait();
    }
}
