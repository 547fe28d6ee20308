import java.net.*;
import java.util.*;
import java.util.stream.*;

/** `Resolve NAME` looks a name up ten times a second, and prints each new answer: its addresses, or "none". */
public class Resolve {
    public static void main(String[] words) throws Exception {
        String before = "";
        while (true) {
            String now;
            try {
                now = Arrays.stream(InetAddress.getAllByName(words[0])).map(InetAddress::getHostAddress)
                    .sorted().collect(Collectors.joining(","));
            } catch (UnknownHostException e) {
                now = "none";
            }
            if (!now.equals(before)) {
                System.out.println(now);
                System.out.flush();
            }
            before = now;
            Thread.sleep(100);
        }
    }
}
