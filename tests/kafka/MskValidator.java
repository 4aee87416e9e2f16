// The broker's side of Amazon MSK with IAM, for the tests: a token is taken apart and its signature made
// again with the secret the test knows, as AWS does it. Nothing of the product is used here.

import java.net.URI;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import javax.security.auth.callback.Callback;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallback;

public class MskValidator implements AuthenticateCallbackHandler {
    private static final String REGION = "eu-central-1";

    @Override
    public void configure(Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> entries) {}

    @Override
    public void close() {}

    @Override
    public void handle(Callback[] callbacks) {
        for (Callback callback : callbacks) {
            if (callback instanceof OAuthBearerValidatorCallback asked) {
                try {
                    asked.token(validated(asked.tokenValue()));
                } catch (Exception error) {
                    System.out.println("MskValidator refused: " + error);
                    asked.error("invalid_token", null, null);
                }
            }
        }
    }

    private static void must(boolean holds, String what) {
        if (!holds) {
            throw new IllegalArgumentException(what);
        }
    }

    private static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20").replace("%7E", "~").replace("*", "%2A");
    }

    private static byte[] hmac(byte[] key, String text) throws Exception {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        return mac.doFinal(text.getBytes(StandardCharsets.UTF_8));
    }

    private static String sha256(String text) throws Exception {
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
        return HexFormat.of().formatHex(digest);
    }

    private static OAuthBearerToken validated(String value) throws Exception {
        must(!value.contains("="), "padding");
        URI url = new URI(new String(Base64.getUrlDecoder().decode(value), StandardCharsets.UTF_8));
        must("https".equals(url.getScheme()) && "/".equals(url.getPath()), "not https, or a path");
        must(url.getHost().equals("kafka." + REGION + ".amazonaws.com"), "host " + url.getHost());
        TreeMap<String, String> parameters = new TreeMap<>();
        for (String pair : url.getRawQuery().split("&")) {
            String[] parts = pair.split("=", 2);
            parameters.put(URLDecoder.decode(parts[0], StandardCharsets.UTF_8), URLDecoder.decode(parts[1], StandardCharsets.UTF_8));
        }
        must(parameters.remove("User-Agent").startsWith("amazon-billing-source/"), "no user agent");
        String signature = parameters.remove("X-Amz-Signature");
        must("kafka-cluster:Connect".equals(parameters.get("Action")), "another action");
        must("AWS4-HMAC-SHA256".equals(parameters.get("X-Amz-Algorithm")), "another algorithm");
        must("host".equals(parameters.get("X-Amz-SignedHeaders")), "other headers");
        must("900".equals(parameters.get("X-Amz-Expires")), "another lifetime");
        String at = parameters.get("X-Amz-Date");
        Instant signed = DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss'Z'").withZone(ZoneOffset.UTC).parse(at, Instant::from);
        Instant now = Instant.now();
        must(!signed.isAfter(now.plusSeconds(5)) && signed.plusSeconds(900).isAfter(now), "expired");
        String[] credential = parameters.get("X-Amz-Credential").split("/");
        String scope = at.substring(0, 8) + "/" + REGION + "/kafka-cluster/aws4_request";
        must(String.join("/", credential).equals(credential[0] + "/" + scope), "another scope");

        StringBuilder query = new StringBuilder();
        parameters.forEach((name, text) -> query.append(query.isEmpty() ? "" : "&").append(encoded(name)).append("=").append(encoded(text)));
        String request = "GET\n/\n" + query + "\nhost:" + url.getHost() + "\n\nhost\n" + sha256("");
        String toSign = "AWS4-HMAC-SHA256\n" + at + "\n" + scope + "\n" + sha256(request);
        byte[] key = ("AWS4" + System.getProperty("msk.secret")).getBytes(StandardCharsets.UTF_8);
        for (String part : scope.split("/")) {
            key = hmac(key, part);
        }
        must(HexFormat.of().formatHex(hmac(key, toSign)).equals(signature), "the signature is another's");
        System.out.println("MskValidator let in: " + credential[0]);

        return new OAuthBearerToken() {
            @Override
            public String value() {
                return value;
            }

            @Override
            public Set<String> scope() {
                return Set.of();
            }

            @Override
            public long lifetimeMs() {
                return signed.plusSeconds(900).toEpochMilli();
            }

            @Override
            public String principalName() {
                return "billing";
            }

            @Override
            public Long startTimeMs() {
                return signed.toEpochMilli();
            }
        };
    }
}
