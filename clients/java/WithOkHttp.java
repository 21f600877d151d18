import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import okhttp3.sse.EventSource;
import okhttp3.sse.EventSourceListener;
import okhttp3.sse.EventSources;

/** okhttp-sse, which does not reconnect, and does not tell its user what `retry:` says. */
final class WithOkHttp extends EventSourceListener {
    // By default, OkHttp gives up on a stream that is silent for ten seconds.
    private static final OkHttpClient CLIENT = new OkHttpClient.Builder().readTimeout(0, TimeUnit.SECONDS).build();
    private static final ScheduledExecutorService LATER = Executors.newSingleThreadScheduledExecutor();
    private static String url;
    private static volatile String lastEventId = "";

    public static void main(String[] args) {
        url = args[0];
        listen();
    }

    private static void listen() {
        Request.Builder request = new Request.Builder().url(url).header("Accept", "text/event-stream");
        if (!lastEventId.isEmpty()) request.header("Last-Event-ID", lastEventId);
        EventSources.createFactory(CLIENT).newEventSource(request.build(), new WithOkHttp());
    }

    @Override
    public void onOpen(EventSource source, Response response) {
        Hear.open();
    }

    @Override
    public void onEvent(EventSource source, String id, String type, String data) {
        if (id != null) lastEventId = id;
        Hear.event(type == null ? "message" : type, id, data);
    }

    @Override
    public void onFailure(EventSource source, Throwable error, Response response) {
        Hear.error(error != null ? error : response);
        LATER.schedule(WithOkHttp::listen, 1, TimeUnit.SECONDS);
    }

    @Override
    public void onClosed(EventSource source) {
        Hear.end();
        if (Hear.COMES_BACK_ALWAYS) LATER.schedule(WithOkHttp::listen, 1, TimeUnit.SECONDS);
        else System.exit(0);
    }
}
