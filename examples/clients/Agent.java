import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;

/** Heartbeats of a PAP agent in Java 17, without a library. */
public final class Agent implements Runnable {
    private static final Map<String, Long> INTERVAL = Map.of("EMERGENCY", 5_000L, "IDLE", 30_000L, "SLEEP", 900_000L); // milliseconds

    private record Target(URI url, String key) {}

    private final HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private final long started = System.nanoTime();
    private final String name;
    private final Target collector, station;
    private String mode;
    private boolean isChanged, isStopping;

    public Agent(String id, String name, String mode) {
        var agent = URLEncoder.encode(id, StandardCharsets.UTF_8).replace("+", "%20");
        this.name = name;
        this.mode = mode;
        collector = target(System.getenv("PAP_COLLECTOR_URL"), "/heartbeat/" + agent, System.getenv("PAP_COLLECTOR_KEY"));
        station = target(System.getenv("PAP_STATION_URL"), "/api/agents/" + agent + "/heartbeat", System.getenv("PAP_AGENT_KEY"));
    }

    private static Target target(String base, String path, String key) {
        return base == null ? null : new Target(URI.create(base + path), key);
    }

    /** Changes the mode, and tells it at once. */
    public synchronized void setMode(String mode) {
        this.mode = mode;
        isChanged = true;
        notifyAll();
    }

    /** A planned stop is no death: it ends with a goodbye. */
    public synchronized void stop() {
        isStopping = true;
        notifyAll();
    }

    private long now() {
        return (System.nanoTime() - started) / 1_000_000;
    }

    private boolean call(Target to, String method, String mode, long seconds) {
        if (to == null) return false;
        var body = "{\"mode\":\"%s\",\"uptime_seconds\":%d,\"agent_name\":\"%s\"}".formatted(mode, now() / 1000, name);
        var publisher = method.equals("POST") ? HttpRequest.BodyPublishers.ofString(body) : HttpRequest.BodyPublishers.noBody();
        var request = HttpRequest.newBuilder(to.url()).timeout(Duration.ofSeconds(seconds)).method(method, publisher).header("Content-Type", "application/json");
        if (to.key() != null) request.header("Authorization", "Bearer " + to.key());
        try {
            return client.send(request.build(), BodyHandlers.discarding()).statusCode() / 100 == 2;
        } catch (Exception failed) {
            return false;
        }
    }

    /** The collector, once more, then the station; together at most 5 s. */
    private boolean beat(String mode) {
        return call(collector, "POST", mode, 2) || call(collector, "POST", mode, 1) || call(station, "POST", mode, 2);
    }

    /** Waits until something is due. Null if the agent stops. */
    private synchronized String await(long due) throws InterruptedException {
        while (!isStopping && !isChanged && now() < due) wait(Math.max(1, due - now()));
        return isStopping ? null : mode;
    }

    private synchronized boolean takeChange() {
        var was = isChanged;
        isChanged = false;
        return was;
    }

    @Override
    public void run() {
        // Many that start together do not beat together: the first two beats are at random moments.
        long due = now() + (long) (Math.random() * Math.min(INTERVAL.get(mode) / 10, 3000));
        try {
            String told;
            for (boolean isFirst = true; (told = await(due)) != null; isFirst = false) {
                if (takeChange()) due = now();
                long interval = INTERVAL.get(told);
                boolean isTaken = beat(told);
                long step = isFirst ? ThreadLocalRandom.current().nextLong(interval) : isTaken ? interval : interval / 4;
                due = Math.max(due + step, now()); // after a pause one beat, not all that were missed
            }
        } catch (InterruptedException stop) {
            Thread.currentThread().interrupt();
        }
        call(collector, "DELETE", mode, 2);
    }

    public static void main(String[] arguments) throws InterruptedException {
        var mode = System.getenv().getOrDefault("HEARTBEAT_MODE", "IDLE");
        var agent = new Agent(System.getenv("PAP_AGENT_ID"), "an agent in Java", mode);
        var thread = new Thread(agent, "heartbeats");
        Thread.setDefaultUncaughtExceptionHandler((at, crash) -> { // a crash says no goodbye
            crash.printStackTrace();
            Runtime.getRuntime().halt(1);
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> { // SIGTERM and SIGINT
            agent.stop();
            try { thread.join(10_000); } catch (InterruptedException stop) { }
        }));
        sun.misc.Signal.handle(new sun.misc.Signal("USR2"), signal -> agent.setMode("EMERGENCY")); // the JVM has USR1 for itself
        thread.start();
        thread.join(); // beside it the agent works
    }
}
