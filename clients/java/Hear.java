import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

/** Prints one JSON line for each thing that happens, for all programs here; see ../README.md. */
final class Hear {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    /** Whether the application also reconnects after the server has ended the stream in order. */
    static final boolean COMES_BACK_ALWAYS = "always".equals(System.getenv("COME_BACK"));

    private Hear() {}

    static void open() {
        OUT.println("{\"what\":\"open\"}");
    }

    static void event(String type, String id, String data) {
        OUT.println("{\"what\":\"event\",\"type\":" + quoted(type) + ",\"id\":" + quoted(id) + ",\"data\":" + quoted(data) + "}");
    }

    static void error(Object why) {
        OUT.println("{\"what\":\"error\",\"why\":" + quoted(String.valueOf(why)) + "}");
    }

    static void end() {
        OUT.println("{\"what\":\"end\"}");
    }

    private static String quoted(String text) {
        if (text == null) return "null";
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < ' ') out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        return out.append('"').toString();
    }
}
