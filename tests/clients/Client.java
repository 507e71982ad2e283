import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;

/** Beats with Java's HttpClient and its defaults (it offers h2c first), until standard input ends. */
public class Client {
    static volatile boolean done;

    public static void main(String[] arguments) throws Exception {
        Thread reader = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (Exception error) { }
            done = true;
        });
        reader.setDaemon(true);
        reader.start();
        HttpClient client = HttpClient.newHttpClient();
        int posts = 0, failed = 0;
        while (!done) {
            posts += 1;
            String body = "{\"mode\":\"IDLE\",\"uptime_seconds\":" + posts / 20.0 + "}";
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/heartbeat/java"))
                .timeout(Duration.ofSeconds(5)).POST(HttpRequest.BodyPublishers.ofString(body)).build();
            try {
                int status = client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode();
                if (status != 200) throw new IllegalStateException("status " + status);
            } catch (Exception error) {
                failed += 1;
                System.err.println("failed: " + error);
            }
            Thread.sleep(50);
        }
        System.out.println(posts + " " + failed);
        System.exit(0);
    }
}
