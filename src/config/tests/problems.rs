//! Whole error texts, as the operator sees them.

use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "one whole output")]
fn all_problems_are_reported_at_once() {
    let text = r#"
        [source]
        source = "two words"
        [poll]
        interval = "0.5s"
        intervall = "8h"
        claim_ttl = "1d"
        instance = "a b"
        settle_days = 32
        publish_zero = "yes"
        requests_per_day = 3
        [budget]
        requests_per_day = -1
        requests_per_month = 1.5
        [[connections]]
        name = "Main"
        account_id = 123456789012
        granularity = ["weekly", "Daily"]
        metrics = ["UnblendedCost", "UNBLENDED_COST", "UnblendedCost", "Cost"]
        group_by = ["SERVICE"]
        endpoint_url = "simulator:5055"
        region = "us-east1"
        [connections.credentials]
        access_key_id = "AKIA"
        [[connections]]
        granularity = "daily"
        metrics = []
        group_by = ["REGION", "TAG:a"]
        [connections.credentials]
        kind = "role"
        role_arn = "arn:aws:iam::1:role/x"
        session_name = "x"
        [connections.filter]
        Or = [{ Dimensions = { Key = "CHARGE_TYPE", Values = ["Usage"] } }]
        Dimensions = { Key = "REGIO", Values = [] }
        [transport]
        kind = "nats"
        [local]
        state = "-"
        [admin]
        listen = "localhost:9464"
        [kafak]
        topic = "x"
    "#;
    insta::assert_snapshot!(error(text), @r#"
    invalid configuration: 35 problems in `test.toml`
      kafak: unknown key
        hint: did you mean `kafka`?
      source.source: `two words` contains ' '; expected visible ASCII without `"` and `%`
        hint: it is part of every event as it is, so nothing may need escaping
      poll.settle_days: `32` is too large; at most 31
      poll.publish_zero is text; expected `true` or `false`
      poll.intervall: unknown key
        hint: did you mean `interval`?
      poll.requests_per_day: unknown key
        hint: it belongs in `[budget]`
      poll.interval: `0.5s` is too short; expected at least `1s`
      poll.claim_ttl: `1d` is not a duration
        hint: days differ in length; write hours: `24h`
      poll.instance: `a b` is not the name of a process
        hint: at most 64 letters, digits, `.`, `_` and `-`
      budget.requests_per_day: `-1` is too small; at least 0
      budget.requests_per_month is a number with a fraction; expected a whole number
      connections[0].account_id is a number; expected text
        hint: quote it, as in `"012345678901"`
      connections[0].name: `Main` is not a name
        hint: lower-case letters, digits and `-`, and a letter or digit first
      connections[0].granularity: `weekly` is not a granularity; expected `daily` or `hourly`
        hint: Cost Explorer has no weekly data; use `daily` and sum downstream
      connections[0].granularity: `Daily` is not a granularity; expected `daily` or `hourly`
        hint: did you mean `daily`?
      connections[0].metrics: `UNBLENDED_COST` is not a cost metric
        hint: did you mean `UnblendedCost`?
      connections[0].metrics: `UnblendedCost` is listed twice
      connections[0].metrics: `Cost` is not a cost metric
        hint: there is `AmortizedCost`, `BlendedCost`, `NetAmortizedCost`, `NetUnblendedCost`, `NormalizedUsageAmount`, `UnblendedCost` and `UsageQuantity`
      connections[0].group_by: `SERVICE` is always the first grouping
        hint: leave it out
      connections[0].endpoint_url: `simulator:5055` is not an `http://` or `https://` URL
        hint: write it with its scheme: `https://host`, `http://127.0.0.1:5055`
      connections[0].region: `us-east1` is not an AWS region
        hint: leave it out, or write `us-east-1`; `cn-northwest-1` in China, `us-gov-west-1` in GovCloud
      connections[0].credentials.access_key_id: does not belong to kind `default`
        hint: set `kind = "keys"`, or remove it
      connections[1].granularity is text; expected a list of texts
        hint: put it in brackets: `["..."]`
      connections[1].name is missing
        hint: every connection has a name of its own, such as `main`
      connections[1].metrics is empty; expected `AmortizedCost`, `BlendedCost`, `NetAmortizedCost`, `NetUnblendedCost`, `NormalizedUsageAmount`, `UnblendedCost` or `UsageQuantity`
      connections[1].group_by: lists 2 groupings; expected at most one
        hint: Cost Explorer takes two, and `SERVICE` is always the first; use a connection for each
      connections[1].filter: has 2 operators, `Or` and `Dimensions`; expected exactly one
        hint: put them into one `And = [...]` or `Or = [...]`
      connections[1].filter.Or: has 1 operand; expected at least two
      connections[1].filter.Or[0].Dimensions.Key: `CHARGE_TYPE` is not a dimension
        hint: Cost Explorer's name for it is `RECORD_TYPE`
      connections[1].filter.Dimensions.Key: `REGIO` is not a dimension
        hint: did you mean `REGION`?
      connections[1].filter.Dimensions.Values is empty; expected at least one value
      connections[1].credentials.role_arn: `arn:aws:iam::1:role/x` is not the ARN of a role; expected `arn:aws:iam::111122223333:role/name`
      connections[1].credentials.session_name: `x` is not a session name
        hint: 2 to 64 letters, digits and `_+=,.@-`
      transport.kind is `nats` but there is no `[nats]` table
        hint: copy the table from `config/example-nats.toml`
      admin.listen: `localhost:9464` is not an address and port
        hint: write an IP address, not a name: `127.0.0.1:9464`, `0.0.0.0:9464`, or `""` for none
    "#);
}

#[test]
fn every_source_of_a_problem_is_named() {
    let files = Files::new(&[
        ("a.toml", "poll.interval = 8"),
        ("b.toml", "transport.kind = \"kafka\"\nkafka.topic = \"x y\""),
    ]);
    let environment = [
        ("BILLING_SOURCE__POLL__CLAIM_TTL", "soon"),
        ("BILLING_SOURCE__POLL__MAX_PAGES", "many"),
        ("BILLING_SOURCE__POL__GRACE", "1s"),
        ("BILLING_SOURCE__CONNECTIONS__0__NAME", "x"),
        ("BILLING_SOURCE__POLL", "x"),
    ];
    insta::assert_snapshot!(files.error(&environment), @r#"
    invalid configuration: 7 problems in `a.toml`, `b.toml`, the environment
      BILLING_SOURCE__CONNECTIONS__0__NAME: the environment cannot reach into the list `connections`
        hint: set it in a file; a secret can stay outside of it with `secret_access_key_file` or `profile`
      BILLING_SOURCE__POLL: names no key
        hint: write `BILLING_SOURCE__SECTION__KEY`
      pol: unknown key (from `BILLING_SOURCE__POL__GRACE`)
        hint: did you mean `poll`?
      poll.interval is a number; expected text (from `a.toml`)
        hint: quote it, as in `"8h"`
      poll.max_pages is text; expected a whole number (from `BILLING_SOURCE__POLL__MAX_PAGES`)
      poll.claim_ttl: `soon` is not a duration (from `BILLING_SOURCE__POLL__CLAIM_TTL`)
        hint: write a number with its unit: `8h`, `1h30m`, `90s`
      kafka.topic: `x y` is not a topic's name (from `b.toml`)
        hint: 1 to 249 letters, digits, `.`, `_` and `-`
    "#);
}

#[test]
fn files_that_cannot_be_read_are_problems() {
    let mut files = Files::new(&[
        ("zero.toml", "[[connections]]\nname = \"a\"\naccount_id = 012345678901"),
        ("twice.toml", "poll = {}\npoll = {}"),
        ("open.toml", "[poll\n"),
        ("bare.toml", "poll.interval = 8h"),
    ]);
    files.paths.push(files.dir.path().join("missing.toml"));
    files.paths.push(files.dir.path().join("folder"));
    std::fs::create_dir(files.paths.last().unwrap()).unwrap();
    insta::assert_snapshot!(files.error(&[]), @r#"
    invalid configuration: 6 problems in `zero.toml`, `twice.toml`, `open.toml`, `bare.toml`, `missing.toml`, `folder`
      zero.toml:3:14: invalid TOML: unexpected leading zero, expected nothing
        hint: quote it: `account_id = "012345678901"`
      twice.toml:2:1: invalid TOML: duplicate key
      open.toml:1:6: invalid TOML: unclosed table, expected `]`
      bare.toml:1:17: invalid TOML: string values must be quoted, expected literal string
      missing.toml: no such file
        hint: `--config` and `BILLING_SOURCE_CONFIG` are relative to the working directory
      folder is a directory; expected a file
        hint: name each file with a `--config` of its own
    "#);
}

#[test]
fn credentials_and_names_are_checked_per_connection() {
    let text = r#"
        [[connections]]
        name = "a"
        account_id = "1111-2222-3333"
        credentials = { kind = "keys", access_key_id = "", secret_access_key = "", secret_access_key_file = "x" }
        [[connections]]
        name = "a"
        nam = "b"
        credentials = { kind = "profiles", profile = "p" }
        [[connections]]
        credentials = { kind = "keys", secret_access_key_file = "/nonexistent/secret" }
        [[connections]]
        name = "c"
        credentials = { kind = "profile", role_arn = "x" }
        [[connections]]
        name = "d"
        credentials = { kind = "role", external_id = "" }
    "#;
    insta::assert_snapshot!(error(text), @r#"
    invalid configuration: 13 problems in `test.toml`
      connections[0].account_id: `1111-2222-3333` is not an account; expected 12 digits
        hint: without separators: `account_id = "111122223333"`
      connections[0].credentials.access_key_id is empty; expected an id such as `AKIAIOSFODNN7EXAMPLE`
      connections[0].credentials.secret_access_key is set, and `secret_access_key_file` too; expected one of them
        hint: keep the file: it can be mounted, and rotated without touching the configuration
      connections[1].nam: unknown key
        hint: did you mean `name`?
      connections[1].name: `a` is also the name of `connections[0]`
        hint: a connection's name is its own: in logs and metrics nothing else tells them apart
      connections[1].credentials.kind: `profiles` is not a kind of credentials
        hint: did you mean `profile`?
      connections[2].name is missing
        hint: every connection has a name of its own, such as `main`
      connections[2].credentials.access_key_id is missing; expected an id such as `AKIAIOSFODNN7EXAMPLE`
      connections[2].credentials.secret_access_key_file: there is no file `/nonexistent/secret`
        hint: the path is relative to the working directory
      connections[3].credentials.role_arn: does not belong to kind `profile`
        hint: set `kind = "role"`, or remove it
      connections[3].credentials.profile is missing; expected a profile of `~/.aws/config`
      connections[4].credentials.role_arn is missing; expected `arn:aws:iam::111122223333:role/name`
      connections[4].credentials.external_id is empty
        hint: leave it out
    "#);
}

#[test]
fn filters_and_groups_are_checked() {
    let text = r#"
        [[connections]]
        name = "a"
        filter = {}
        group_by = ["TAG:"]
        [[connections]]
        name = "b"
        filter.and = []
        group_by = ["tag:team"]
        [[connections]]
        name = "c"
        group_by = ["team"]
        filter.Not.Or = [{ Tags = { Values = ["x"] } }, { Dimensions = { Key = "REGION", Values = ["x"], MatchOptions = ["ABSENT", "EQUAL"] } }]
        [[connections]]
        name = "d"
        group_by = ["linked-account"]
        filter.record_types = []
    "#;
    insta::assert_snapshot!(error(text), @"
    invalid configuration: 10 problems in `test.toml`
      connections[0].group_by: `TAG:` names nothing
        hint: write `TAG:team` or `COST_CATEGORY:unit`
      connections[0].filter is empty; expected one of `record_types`, `And`, `Or`, `Not`, `Dimensions`, `Tags` or `CostCategories`
      connections[1].filter.and: unknown key
        hint: did you mean `And`?
      connections[1].group_by: `tag:team` is not a grouping
        hint: did you mean `TAG:team`?
      connections[2].group_by: `team` is not a grouping
        hint: a tag is `TAG:team`; a dimension is `AZ`, `BILLING_ENTITY`, `INSTANCE_TYPE`, `INVOICING_ENTITY`, `LEGAL_ENTITY_NAME`, `LINKED_ACCOUNT`, `OPERATION`, `PLATFORM`, `PURCHASE_TYPE`, `RECORD_TYPE`, `REGION`, `TENANCY` or `USAGE_TYPE`
      connections[2].filter.Not.Or[0].Tags.Key is missing; expected the name of what is filtered by
      connections[2].filter.Not.Or[1].Dimensions.MatchOptions: `ABSENT` is not a match option here
        hint: there is `EQUALS` and `CASE_SENSITIVE`
      connections[2].filter.Not.Or[1].Dimensions.MatchOptions: `EQUAL` is not a match option here
        hint: did you mean `EQUALS`?
      connections[3].group_by: `linked-account` is not a grouping
        hint: did you mean `LINKED_ACCOUNT`?
      connections[3].filter.record_types is empty; expected at least one value
    ");
}

#[test]
fn a_table_for_a_list_is_explained() {
    insta::assert_snapshot!(error("[connections]\nname = \"a\""), @"
    invalid configuration: 1 problem in `test.toml`
      connections is a table; expected a list of tables
        hint: write `[[connections]]`, in two brackets
    ");
    insta::assert_snapshot!(error("connections = [\"a\"]"), @"
    invalid configuration: 1 problem in `test.toml`
      connections[0] is text; expected a table
    ");
    insta::assert_snapshot!(error("poll = 8"), @"
    invalid configuration: 1 problem in `test.toml`
      poll is a number; expected a table
    ");
    insta::assert_snapshot!(error("transport.kind = \"kafka\""), @"
    invalid configuration: 1 problem in `test.toml`
      transport.kind is `kafka` but there is no `[kafka]` table
        hint: copy the table from `config/example-kafka.toml`
    ");
}

#[test]
fn collisions_name_both_connections() {
    let text = r#"
        [[connections]]
        name = "a"
        account_id = "111122223333"
        group_by = ["TAG:team"]
        [[connections]]
        name = "b"
        account_id = "111122223333"
        group_by = ["LINKED_ACCOUNT"]
        [[connections]]
        name = "c"
        account_id = "111122223333"
        group_by = ["LINKED_ACCOUNT"]
        granularity = ["hourly", "daily"]
    "#;
    insta::assert_snapshot!(error(text), @"
    invalid configuration: 3 problems in `test.toml`
      connections[1]: `b` collides with `a` (`connections[0]`): account `111122223333` by `LINKED_ACCOUNT` here and by `TAG:team` there can give one key to two figures
        hint: a key ends in the value alone; give one of them a filter or a granularity of its own
      connections[2]: `c` collides with `a` (`connections[0]`): account `111122223333` by `LINKED_ACCOUNT` here and by `TAG:team` there can give one key to two figures
        hint: a key ends in the value alone; give one of them a filter or a granularity of its own
      connections[2]: `c` collides with `b` (`connections[1]`): account `111122223333` with the same grouping and filter, so both would publish the same keys
        hint: remove one, or give it another `granularity`, `group_by` or `filter`; names are no part of a key
    ");
}

#[test]
fn everything_wrong_with_nats_is_said_at_once() {
    let text = r#"
        [transport]
        kind = "nats"
        [nats]
        servers = ["localhost:4222", "nats://user:hunter2@host", "http://host"]
        stream = "my.stream"
        bucket = "my bucket"
        subject_prefix = "aws..cost"
        content_mode = "json"
        timeout = "soon"
        max_in_flight = 0
        user = "a"
        token = "t"
        [nats.tls]
        ca_file = "/nowhere/ca.pem"
        certificate_file = "/nowhere/client.pem"
    "#;
    insta::assert_snapshot!(error(text), @r#"
    invalid configuration: 12 problems in `test.toml`
      nats.max_in_flight: `0` is too small; at least 1
      nats.servers[0]: `localhost:4222` is not a server of NATS
        hint: write `nats://host:4222` or `tls://host:4222`
      nats.servers[1]: contains a user or password
        hint: set `user` and `password_file`
      nats.servers[2]: `http://host` is not a server of NATS
        hint: write `nats://host:4222` or `tls://host:4222`
      nats.stream: `my.stream` is not a name of JetStream: '.' may not be in one
      nats.bucket: `my bucket` is not the name of a bucket
        hint: letters, digits, `_` and `-`
      nats.subject_prefix: `aws..cost` cannot begin a subject
        hint: tokens of visible characters joined by dots: `amazon.billing`
      nats.content_mode: `json` is not a content mode
        hint: there is `structured` and `binary`
      nats.timeout: `soon` is not a duration
        hint: write a number with its unit: `8h`, `1h30m`, `90s`
      nats.tls.ca_file: there is no file `/nowhere/ca.pem`
        hint: the path is relative to the working directory
      nats.tls.key_file is missing; expected the key of `certificate_file`
      nats.user: `user` and `token` are set; expected one way to log in
    "#);
    insta::assert_snapshot!(error("transport.kind = \"nats\"\nnats = { user = \"a\", subject_prefix = \"$JS.x\" }"), @"
    invalid configuration: 2 problems in `test.toml`
      nats.subject_prefix: `$JS.x` belongs to NATS itself
        hint: tokens of visible characters joined by dots: `amazon.billing`
      nats.password is missing
        hint: set `password_file` to a file that holds it
    ");
}

/// What is passed through may not undo what is promised.
#[test]
fn kafka_problems_name_the_key_and_the_reason() {
    let text = r#"
        transport.kind = "kafka"
        [kafka]
        bootstrap_servers = ""
        topic = "a"
        state_topic = "a"
        content_mode = "text"
        delivery = "exactly-once"
        on_lost_state = "ignore"
        state_partitions = 0
        username = "u"
        [kafka.librdkafka]
        "enable.idempotence" = false
        "bootstrap.servers" = "b:9092"
        acks = 1
        "linger.ms" = "soon"
        compression.type = "lz4"
        "no.such.property" = 1
    "#;
    insta::assert_snapshot!(error(text), @r#"
    invalid configuration: 12 problems in `test.toml`
      kafka.state_partitions: `0` is too small; at least 1
      kafka.bootstrap_servers is empty; expected `host:port`
      kafka.state_topic: `a` is also `kafka.topic`; expected a topic of its own
        hint: it is compacted, which would delete the history of the events
      kafka.content_mode: `text` is not a content mode
        hint: there is `binary` and `structured`
      kafka.delivery: `exactly-once` is not a delivery mode
        hint: did you mean `exactly_once`?
      kafka.on_lost_state: `ignore` is not known
        hint: there is `refuse` and `republish`
      kafka.librdkafka.acks is not for passing through
        hint: it is always `all`: less loses events that were acknowledged
      kafka.librdkafka.bootstrap.servers is not for passing through
        hint: set `kafka.bootstrap_servers`
      kafka.librdkafka.enable.idempotence is not for passing through
        hint: it is always on: without it the client's own retries make duplicates
      kafka.librdkafka.linger.ms: Invalid value for configuration property "queue.buffering.max.ms"
        hint: see CONFIGURATION.md of librdkafka 2.12
      kafka.librdkafka.no.such.property: No such configuration property: "no.such.property"
        hint: see CONFIGURATION.md of librdkafka 2.12
      kafka.username is set without a password
        hint: set `kafka.password_file`
    "#);
}

#[test]
fn the_ways_to_log_in_to_kafka_are_checked() {
    let tables = |kafka: &str| format!("transport.kind = \"kafka\"\n[kafka]\n{kafka}");
    insta::assert_snapshot!(error(&tables(
        r#"
        [kafka.oauth]
        token_endpoint = "http://login.example.com/token"
        client_id = ""
        client_auth = "header"
        ca_file = "/nonexistent/ca.pem"
        [kafka.librdkafka]
        "sasl.mechanisms" = "PLAIN"
        "#
    )), @r#"
    invalid configuration: 6 problems in `test.toml`
      kafka.oauth.token_endpoint: `http://login.example.com/token` is plain http to another host
        hint: write `https://`: the client's secret is sent there
      kafka.oauth.client_id is missing; expected who asks for tokens
      kafka.oauth.client_secret is missing
        hint: set `client_secret_file` to a file that holds it
      kafka.oauth.client_auth: `header` is not a way to send a secret
        hint: there is `basic` and `post`
      kafka.oauth.ca_file: there is no file `/nonexistent/ca.pem`
        hint: the path is relative to the working directory
      kafka.librdkafka.sasl.mechanisms is not `OAUTHBEARER`, which `[kafka.oauth]` means
        hint: leave it out
    "#);
    insta::assert_snapshot!(error(&tables(
        r#"
        [kafka.oauth]
        token_endpoint = "https://login.example.com/token"
        client_id = "a"
        client_secret = "hunter2"
        [kafka.librdkafka]
        "sasl.mechanisms" = "PLAIN"
        "security.protocol" = "ssl"
        "#
    )), @r#"
    invalid configuration: 2 problems in `test.toml`
      kafka.librdkafka.sasl.mechanisms is not `OAUTHBEARER`, which `[kafka.oauth]` means
        hint: leave it out
      kafka.librdkafka.security.protocol is `SSL`, where nobody logs in; `[kafka.oauth]` is set
        hint: leave it out: it is `SASL_SSL` then
    "#);
    insta::assert_snapshot!(error(&tables(
        r#"
        [kafka.msk_iam]
        region = "europe"
        credentials = { kind = "role" }
        "#
    )), @r#"
    invalid configuration: 2 problems in `test.toml`
      kafka.msk_iam.region: `europe` is not an AWS region
        hint: the cluster's own region, such as `eu-central-1`
      kafka.msk_iam.credentials.role_arn is missing; expected `arn:aws:iam::111122223333:role/name`
    "#);
    insta::assert_snapshot!(error(&tables(
        r#"
        username = "u"
        password = "hunter2"
        [kafka.oauth]
        [kafka.msk_iam]
        "#
    )), @r#"
    invalid configuration: 1 problem in `test.toml`
      kafka.msk_iam: `username`, `oauth` and `msk_iam` are set; expected one way to log in
    "#);
    insta::assert_snapshot!(error(&tables(
        r#"
        [kafka.librdkafka]
        "sasl.mechanisms" = "OAUTHBEARER"
        "#
    )), @r#"
    invalid configuration: 1 problem in `test.toml`
      kafka.librdkafka.sasl.mechanisms is `OAUTHBEARER`, but nothing says where tokens come from
        hint: write a table `[kafka.oauth]`, or `[kafka.msk_iam]` for Amazon MSK
    "#);
}
