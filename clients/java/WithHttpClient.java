import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.Iterator;
import java.util.stream.Stream;

/** java.net.http.HttpClient, which decodes the answer and splits it into lines; no library. */
final class WithHttpClient {
    private static String lastEventId = "";
    private static long wait = 1000;

    public static void main(String[] args) throws InterruptedException {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        while (true) {
            try {
                listen(client, URI.create(args[0]));
                Hear.end();
                if (!Hear.COMES_BACK_ALWAYS) return;
            } catch (IOException | UncheckedIOException error) {
                Hear.error(error);
            }
            Thread.sleep(wait);
        }
    }

    private static void listen(HttpClient client, URI url) throws IOException, InterruptedException {
        HttpRequest.Builder request = HttpRequest.newBuilder(url).header("Accept", "text/event-stream");
        if (!lastEventId.isEmpty()) request.header("Last-Event-ID", lastEventId);
        HttpResponse<Stream<String>> response = client.send(request.build(), HttpResponse.BodyHandlers.ofLines());
        if (response.statusCode() != 200) throw new IOException("status " + response.statusCode());
        Hear.open();
        String type = "message", id = null;
        StringBuilder data = null;
        for (Iterator<String> lines = response.body().iterator(); lines.hasNext(); ) {
            String line = lines.next();
            if (line.isEmpty()) {
                if (data != null) Hear.event(type, id, data.toString());
                type = "message";
                id = null;
                data = null;
                continue;
            }
            int colon = line.indexOf(':');
            String field = colon < 0 ? line : line.substring(0, colon);
            String value = colon < 0 ? "" : line.substring(colon + 1);
            if (value.startsWith(" ")) value = value.substring(1);
            switch (field) {
                case "event" -> type = value;
                case "data" -> data = data == null ? new StringBuilder(value) : data.append('\n').append(value);
                case "id" -> id = lastEventId = value;
                case "retry" -> wait = Long.parseLong(value);
                default -> { }
            }
        }
    }
}
