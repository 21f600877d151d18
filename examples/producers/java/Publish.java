import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ThreadLocalRandom;
import java.util.regex.Pattern;

/**
 * Publishes one event over HTTP, with Java 17 or newer and no library:
 *
 * <pre>java Publish.java CHANNEL DATA [TYPE [KEY]]</pre>
 *
 * SSE_URL names the gateway, SSE_TOKEN holds a token or an API key, if the gateway wants one.
 */
public final class Publish {
    private static final int ATTEMPTS = 6;
    private static final Set<Integer> RETRYABLE = Set.of(429, 502, 503, 504);
    private static final Pattern ID = Pattern.compile("\"id\":\"([0-9A-Za-z._~-]+)\"");
    private static final HttpClient CLIENT =
            HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(5)).build();

    /** Publishes an event and returns its id. The key makes every repetition harmless. */
    static String publish(String channel, String event, String data, String key)
            throws IOException, InterruptedException {
        HttpRequest request = request(channel, event, data, key);
        for (int attempt = 1; ; attempt++) {
            long wait = 0;
            try {
                HttpResponse<String> answer = CLIENT.send(request, BodyHandlers.ofString());
                var id = ID.matcher(answer.body());
                if (answer.statusCode() == 200 && id.find()) {
                    return id.group(1);
                }
                if (!RETRYABLE.contains(answer.statusCode()) || attempt == ATTEMPTS) {
                    throw new IllegalStateException(answer.statusCode() + ": " + answer.body());
                }
                wait = 1000 * answer.headers().firstValueAsLong("Retry-After").orElse(0);
            } catch (IOException error) {
                // Not reached, or no answer: it may have been published, which the key makes good.
                if (attempt == ATTEMPTS) {
                    throw error;
                }
            }
            double spread = ThreadLocalRandom.current().nextDouble(0.5, 1.5);
            Thread.sleep(Math.max(wait, (long) (100 * Math.pow(2, attempt) * spread)));
        }
    }

    private static HttpRequest request(String channel, String event, String data, String key) {
        String base = System.getenv().getOrDefault("SSE_URL", "http://127.0.0.1:8080");
        URI uri = URI.create(base + "/channels/" + encode(channel) + "?event=" + encode(event));
        var request = HttpRequest.newBuilder(uri)
                .version(HttpClient.Version.HTTP_1_1)
                .timeout(Duration.ofSeconds(5))
                .header("Idempotency-Key", key)
                .POST(BodyPublishers.ofString(data));
        String token = System.getenv("SSE_TOKEN");
        if (token != null) {
            request.header("Authorization", "Bearer " + token);
        }
        return request.build();
    }

    private static String encode(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20");
    }

    public static void main(String[] args) throws Exception {
        String event = args.length > 2 ? args[2] : "";
        String key = args.length > 3 ? args[3] : UUID.randomUUID().toString();
        try {
            System.out.println(publish(args[0], event, args[1], key));
        } catch (IllegalStateException | IOException error) {
            System.err.println(error.getMessage());
            System.exit(1);
        }
    }
}
