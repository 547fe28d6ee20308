import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

/**
 * Kafka's own client, in a pod of the tests.
 *
 *     KafkaClient put BOOTSTRAP TEXT...   make the topic "once" if it is missing, and write to it, each by acks=all
 *     KafkaClient get BOOTSTRAP           print what is in "once"
 *     KafkaClient watch BOOTSTRAP         write to each partition of the topic "all" ten times a second, read it in a
 *                                    group, and print what the cluster looks like, until killed
 *
 * A line of `watch` is "MILLISECONDS state ..." or "MILLISECONDS event ...". A state has the brokers, each
 * partition's leader and in-sync replicas, the voters of the quorum that are not behind, and how many records
 * were acknowledged and not read 10 s later.
 */
public class KafkaClient {
    static final int REPLICAS = 3;
    static final long LATE = 10_000; // ms after which an acknowledged record should have been read
    static final long GAP = 1_500; // ms without a write or a read that are worth an event
    static final Map<Long, Long> unread = new ConcurrentHashMap<>(); // record: ms when it was acknowledged

    static synchronized void say(String text) {
        System.out.println(System.currentTimeMillis() + " " + text);
        System.out.flush();
    }

    static Properties properties(String bootstrap) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        for (String side : List.of("key", "value")) {
            p.put(side + ".serializer", StringSerializer.class);
            p.put(side + ".deserializer", StringDeserializer.class);
        }
        p.put("acks", "all");
        p.put("linger.ms", "0");
        return p;
    }

    public static void main(String[] words) throws Exception {
        Properties p = properties(words[1]);
        switch (words[0]) {
            case "put" -> put(p, Arrays.copyOfRange(words, 2, words.length));
            case "get" -> get(p);
            default -> watch(p);
        }
    }

    static void create(Admin admin, String topic) throws Exception {
        try {
            admin.createTopics(List.of(new NewTopic(topic, REPLICAS, (short) REPLICAS))).all().get();
        } catch (ExecutionException e) {
            if (!(e.getCause() instanceof org.apache.kafka.common.errors.TopicExistsException)) throw e;
        }
    }

    static void put(Properties p, String[] texts) throws Exception {
        try (Admin admin = Admin.create(p); Producer<String, String> out = new KafkaProducer<>(p)) {
            create(admin, "once");
            for (int i = 0; i < texts.length; i++) {
                out.send(new ProducerRecord<>("once", i % REPLICAS, "", texts[i])).get();
            }
        }
    }

    static void get(Properties p) {
        List<TopicPartition> parts =
            IntStream.range(0, REPLICAS).mapToObj(i -> new TopicPartition("once", i)).collect(Collectors.toList());
        try (KafkaConsumer<String, String> in = new KafkaConsumer<>(p)) {
            in.assign(parts);
            in.seekToBeginning(parts);
            Map<TopicPartition, Long> ends = in.endOffsets(parts);
            long until = System.currentTimeMillis() + 30_000;
            while (parts.stream().anyMatch(x -> in.position(x) < ends.get(x)) && System.currentTimeMillis() < until) {
                in.poll(Duration.ofMillis(200)).forEach(r -> System.out.println(r.value()));
            }
        }
    }

    static void watch(Properties p) throws Exception {
        for (String limit : List.of("default.api.timeout.ms", "delivery.timeout.ms", "max.block.ms")) p.put(limit, "6000");
        for (String limit : List.of("request.timeout.ms", "metadata.max.age.ms")) p.put(limit, "5000");
        Admin admin = Admin.create(p);
        while (true) {
            try {
                create(admin, "all");
                break;
            } catch (Exception e) {
                say("event no topic yet: " + e.getMessage());
                Thread.sleep(500);
            }
        }
        for (Runnable side : List.<Runnable>of(() -> produce(p), () -> consume(p))) {
            Thread thread = new Thread(side);
            thread.setDaemon(true);
            thread.start();
        }
        while (true) {
            String now;
            try {
                now = state(admin);
            } catch (Exception e) {
                now = "none: " + (e.getCause() != null ? e.getCause() : e);
            }
            say("state " + now);
            Thread.sleep(300);
        }
    }

    static String state(Admin admin) throws Exception {
        Collection<org.apache.kafka.common.Node> nodes = admin.describeCluster().nodes().get();
        TopicDescription topic = admin.describeTopics(List.of("all")).allTopicNames().get().get("all");
        QuorumInfo quorum = admin.describeMetadataQuorum().quorumInfo().get();
        long top = quorum.voters().stream().mapToLong(v -> v.logEndOffset()).max().orElse(0);
        long before = System.currentTimeMillis() - LATE;
        return "brokers=" + sorted(nodes.stream().map(n -> n.idString()))
            + " isr=" + topic.partitions().stream()
                .map(x -> x.partition() + ":" + (x.leader() == null ? "-" : x.leader().idString()) + "/"
                    + sorted(x.isr().stream().map(n -> n.idString()))).collect(Collectors.joining(";"))
            + " voters=" + sorted(quorum.voters().stream().filter(v -> top - v.logEndOffset() < 20).map(v -> "" + v.replicaId()))
            + " leader=" + quorum.leaderId()
            + " late=" + unread.values().stream().filter(at -> at < before).count();
    }

    static String sorted(Stream<String> ids) {
        return ids.sorted().collect(Collectors.joining(","));
    }

    static void produce(Properties p) {
        long[] good = new long[REPLICAS];
        try (Producer<String, String> out = new KafkaProducer<>(p)) {
            for (long n = 0; ; n++) {
                final long number = n;
                final int part = (int) (n % REPLICAS);
                out.send(new ProducerRecord<>("all", part, "", "" + number), (meta, error) -> {
                    long now = System.currentTimeMillis();
                    if (error != null) return;
                    unread.put(number, now);
                    if (good[part] > 0 && now - good[part] > GAP) {
                        say("event partition " + part + " took no writes for " + (now - good[part]) + " ms");
                    }
                    good[part] = now;
                });
                Thread.sleep(100);
            }
        } catch (Throwable e) {
            say("event producer ended: " + e);
        }
    }

    static void consume(Properties p) {
        Properties q = new Properties();
        q.putAll(p);
        q.put("group.id", "tests");
        q.put("auto.offset.reset", "earliest");
        long last = 0;
        Set<Long> early = new HashSet<>(); // read before the producer heard of the acknowledgement
        try (KafkaConsumer<String, String> in = new KafkaConsumer<>(q)) {
            in.subscribe(List.of("all"));
            while (true) {
                ConsumerRecords<String, String> records = in.poll(Duration.ofMillis(200));
                long now = System.currentTimeMillis();
                records.forEach(r -> early.add(Long.parseLong(r.value())));
                early.removeIf(n -> unread.remove(n) != null);
                if (records.count() > 0) {
                    if (last > 0 && now - last > GAP) say("event consumer had nothing for " + (now - last) + " ms");
                    last = now;
                }
            }
        } catch (Throwable e) {
            say("event consumer ended: " + e);
        }
    }
}
