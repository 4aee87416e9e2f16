//! The configuration from files and variables to typed values or whole error texts.

mod files;
mod problems;

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// Files of the given names and contents, in a directory that goes with the value.
struct Files {
    dir: TempDir,
    paths: Vec<PathBuf>,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        let write = |(name, text): &(&str, &str)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let paths = files.iter().map(write).collect();
        Self { dir, paths }
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        load(&self.paths, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    /// The error's text, with the directory left out.
    fn error(&self, environment: &[(&str, &str)]) -> String {
        self.plain(&self.load(environment).unwrap_err().to_string())
    }

    fn plain(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn loaded(text: &str) -> Loaded {
    let files = Files::new(&[("test.toml", text)]);
    files.load(&[]).unwrap_or_else(|error| panic!("{error}"))
}

fn error(text: &str) -> String {
    Files::new(&[("test.toml", text)]).error(&[])
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let near = [("BILLING_SOURCE_POLL_INTERVAL", "4h"), ("BILLING_SOURCE_PORT", "80")];
    let near = near.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let warnings = load(&[], near).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("`BILLING_SOURCE__POLL__INTERVAL`"), "{warnings:?}");
    let Loaded { config, warnings, sources, .. } = load(&[], []).unwrap();
    assert_eq!(config.source.source, "cloud.amazon.billing");
    assert_eq!(config.source.type_prefix, "amazon.billing");
    let hours = std::time::Duration::from_hours(1);
    assert_eq!(config.poll.interval, 8 * hours);
    assert_eq!(config.poll.claim_ttl, hours / 30);
    assert_eq!((config.poll.settle_days, config.poll.publish_zero), (10, false));
    assert_eq!((config.poll.concurrency, config.poll.max_pages, config.poll.grace.as_secs()), (4, 500, 20));
    assert_eq!(config.budget, BudgetConfig { requests_per_day: Some(24), requests_per_month: None });
    let TransportConfig::Local(local) = &config.transport else { panic!("{:?}", config.transport) };
    assert_eq!(*local, LocalConfig { output: None, state: "billing-source.db".into() });
    assert_eq!(config.admin.unwrap().to_string(), "127.0.0.1:9464");
    assert!(warnings.is_empty() && sources.is_empty());
    insta::assert_snapshot!(config.require_connections().unwrap_err(), @"
    invalid configuration: 1 problem
      connections: no connection is configured, so there is nothing to poll
        hint: add a `[[connections]]` table, as in `config/example-local.toml`, to a file named with `--config`; `amazon-billing-source demo` needs none
    ");
}

#[test]
fn later_files_override_key_by_key_and_replace_lists() {
    let files = Files::new(&[
        (
            "a.toml",
            "poll = { interval = \"6h\", settle_days = 5 }\n[[connections]]\nname = \"a\"\n[[connections]]\nname = \"b\"\naccount_id = \"111122223333\"",
        ),
        ("b.toml", "poll.settle_days = 7\nadmin.listen = \"\"\n[[connections]]\nname = \"c\""),
    ]);
    let Loaded { config, sources, .. } = files.load(&[]).unwrap();
    assert_eq!((config.poll.interval.as_secs(), config.poll.settle_days), (6 * 3600, 7));
    assert_eq!(config.admin, None);
    let names: Vec<_> = config.connections.iter().map(|connection| connection.name.as_str()).collect();
    assert_eq!(names, ["c"]);
    assert_eq!(sources.len(), 2);
    config.require_connections().unwrap();
}

#[test]
fn the_environment_overrides_files() {
    let files = Files::new(&[("a.toml", "poll.interval = \"6h\"\nbudget.requests_per_day = 5")]);
    let environment = [
        ("BILLING_SOURCE__POLL__INTERVAL", "4h"),
        ("BILLING_SOURCE__POLL__PUBLISH_ZERO", "true"),
        ("BILLING_SOURCE__BUDGET__REQUESTS_PER_DAY", "0"),
        ("BILLING_SOURCE__SOURCE__SOURCE", "012345678901"),
        ("BILLING_SOURCE_CONFIG", "other.toml"),
        ("BILLING_SOURCE_LOG", "debug"),
        ("BILLING_SOURCE_PORT", "tcp://10.0.0.1:80"),
        ("PATH", "/bin"),
    ];
    let loaded = files.load(&environment).unwrap();
    // `requests_per_day` and `interval` are in the file, and overridden.
    assert_eq!(loaded.written(), (0, 4));
    let Loaded { config, shown, sources, .. } = loaded;
    assert_eq!(config.poll.interval.as_secs(), 4 * 3600);
    assert!(config.poll.publish_zero);
    assert_eq!(config.budget.requests_per_day, None);
    assert_eq!(config.source.source, "012345678901");
    assert_eq!(sources.last().unwrap(), "the environment");
    let origin = |key: &str| &shown.iter().find(|shown| shown.key == key).unwrap().origin;
    assert_eq!(origin("poll.interval"), "BILLING_SOURCE__POLL__INTERVAL");
    assert_eq!(origin("poll.grace"), "built-in default");
    assert_eq!(origin("admin.listen"), "built-in default");
}

#[test]
fn connections_become_typed_ordered_values() {
    let Loaded { config, .. } = loaded(
        r#"
        [[connections]]
        name = "main"
        granularity = ["hourly", "daily"]
        metrics = ["UsageQuantity", "BlendedCost"]
        group_by = ["TAG:cost:team"]
        region = "cn-north-1"
        endpoint_url = "http://127.0.0.1:5055"
        filter.And = [
          { Not = { record_types = ["Tax", "Credit", "Tax"] } },
          { Tags = { Key = "team", MatchOptions = ["ABSENT"] } },
        ]
        credentials = { kind = "role", role_arn = "arn:aws-cn:iam::111122223333:role/r", profile = "p" }
        "#,
    );
    insta::assert_debug_snapshot!(config.connections, @r#"
    [
        ConnectionConfig {
            name: "main",
            account_id: None,
            granularity: [
                Daily,
                Hourly,
            ],
            metrics: [
                BlendedCost,
                UsageQuantity,
            ],
            group_by: Some(
                Tag(
                    "cost:team",
                ),
            ),
            filter: Some(
                And(
                    [
                        Not(
                            Dimensions(
                                FilterValues {
                                    key: "RECORD_TYPE",
                                    values: [
                                        "Credit",
                                        "Tax",
                                    ],
                                    match_options: [],
                                },
                            ),
                        ),
                        Tags(
                            FilterValues {
                                key: "team",
                                values: [],
                                match_options: [
                                    "ABSENT",
                                ],
                            },
                        ),
                    ],
                ),
            ),
            endpoint_url: Some(
                "http://127.0.0.1:5055",
            ),
            sts_endpoint_url: None,
            region: "cn-northwest-1",
            credentials: Role {
                role_arn: "arn:aws-cn:iam::111122223333:role/r",
                external_id: None,
                session_name: "amazon-billing-source",
                profile: Some(
                    "p",
                ),
            },
        },
    ]
    "#);
    insta::assert_snapshot!(config.connections[0].filter.as_ref().unwrap().canonical(), @r#"{"And":[{"Not":{"Dimensions":{"Key":"RECORD_TYPE","Values":["Credit","Tax"]}}},{"Tags":{"Key":"team","Values":[],"MatchOptions":["ABSENT"]}}]}"#);
}

#[test]
fn a_short_interval_is_a_warning_with_its_price() {
    let warnings = |poll: &str, connections: usize| {
        let connection = |index| {
            format!(
                "[[connections]]\nname = \"c{index}\"\naccount_id = \"{index:012}\"\ngranularity = [\"daily\", \"hourly\"]\n"
            )
        };
        let connections: String = (0..connections).map(connection).collect();
        loaded(&format!("{poll}\n{connections}")).warnings.join("\n")
    };
    assert_eq!(warnings("poll.interval = \"1h\"\nbudget.requests_per_day = 0", 2), "");
    assert_eq!(warnings("poll.interval = \"8h\"", 4), "");
    insta::assert_snapshot!(warnings("poll.interval = \"59m59s\"\nbudget.requests_per_day = 0", 0), @"poll.interval: every `59m59s` is 25 polls a day; at AWS's $0.01 a request that is $7.21 in a month of 30 days, for each granularity of a connection; AWS refreshes the data about three times a day");
    insta::assert_snapshot!(warnings("poll.interval = \"30m\"\nbudget.requests_per_day = 0", 2), @"poll.interval: every `30m` is 48 polls a day; at AWS's $0.01 a request that is $57.60 in a month of 30 days, for 2 connections with 4 granularities in all; AWS refreshes the data about three times a day");
    insta::assert_snapshot!(warnings("poll.interval = \"1s\"", 1), @"
    poll.interval: every `1s` is 86400 polls a day; at AWS's $0.01 a request that is $51840.00 in a month of 30 days, for 1 connection with 2 granularities; AWS refreshes the data about three times a day
    budget.requests_per_day: a cap of 24 cannot hold the 172800 requests that polling every `1s` takes in a day; polls beyond it will not be made
    ");
    insta::assert_snapshot!(warnings("poll.interval = \"8h\"\nbudget.requests_per_month = 719", 4), @"budget.requests_per_month: a cap of 719 cannot hold the 720 requests that polling every `8h` takes in a month of 30 days; polls beyond it will not be made");
    assert_eq!(warnings("poll.interval = \"8h\"\nbudget.requests_per_month = 720", 4), "");
}

#[test]
fn plain_http_to_another_host_is_a_warning() {
    let text = "[[connections]]\nname = \"a\"\nendpoint_url = \"http://simulator:5055\"";
    let warnings = loaded(text).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("connections[0].endpoint_url"), "{warnings:?}");
}

fn connection(text: &str) -> ConnectionConfig {
    loaded(&format!("[[connections]]\nname = \"x\"\n{text}")).config.connections.remove(0)
}

#[test]
fn connections_collide_by_grouping_filter_and_granularity() {
    for (a, b, expected) in [
        ("", "", true),
        ("", "granularity = [\"hourly\"]", false),
        ("", "granularity = [\"hourly\", \"daily\"]", true),
        ("", "metrics = [\"BlendedCost\"]", true),
        ("", "group_by = [\"REGION\"]", false),
        ("group_by = [\"LINKED_ACCOUNT\"]", "group_by = [\"REGION\"]", false),
        ("group_by = [\"LINKED_ACCOUNT\"]", "group_by = [\"TAG:a\"]", true),
        ("group_by = [\"TAG:b\"]", "group_by = [\"TAG:a\"]", true),
        ("group_by = [\"TAG:a\"]", "group_by = [\"COST_CATEGORY:a\"]", true),
        ("group_by = [\"AZ\"]", "group_by = [\"REGION\"]", true),
        ("group_by = [\"LEGAL_ENTITY_NAME\"]", "group_by = [\"BILLING_ENTITY\"]", true),
        ("group_by = [\"TAG:b\"]", "group_by = [\"TAG:a\"]\nfilter.record_types = [\"Tax\"]", false),
        ("", "filter.record_types = [\"Tax\"]", false),
        ("filter.record_types = [\"Tax\", \"Usage\"]", "filter.record_types = [\"Usage\", \"Tax\"]", true),
    ] {
        let (left, right) = (connection(a), connection(b));
        assert_eq!(collide(&left, &right), expected, "{a} | {b}");
        assert_eq!(collide(&right, &left), expected, "{b} | {a}");
    }
}

#[test]
fn only_connections_to_possibly_one_account_collide() {
    let keys = |id: &str| {
        format!("credentials = {{ kind = \"keys\", access_key_id = \"{id}\", secret_access_key = \"s\" }}")
    };
    let profile = |name: &str| format!("credentials = {{ kind = \"profile\", profile = \"{name}\" }}");
    let account = |id: &str| format!("account_id = \"{id}\"");
    for (a, b, expected) in [
        (account("111122223333"), account("111122223333"), true),
        (account("111122223333"), account("111122223334"), false),
        (
            format!("{}\n{}", account("111122223333"), keys("a")),
            format!("{}\n{}", account("111122223333"), keys("b")),
            true,
        ),
        (String::new(), String::new(), true),
        (String::new(), account("111122223333"), true),
        (keys("a"), keys("a"), true),
        (keys("a"), keys("b"), false),
        (keys("a"), String::new(), false),
        (profile("a"), profile("a"), true),
        (profile("a"), profile("b"), false),
        (String::new(), "endpoint_url = \"http://127.0.0.1:1\"".to_owned(), false),
    ] {
        let text = format!("[[connections]]\nname = \"first\"\n{a}\n[[connections]]\nname = \"second\"\n{b}");
        let result = Files::new(&[("a.toml", &text)]).load(&[]);
        assert_eq!(result.is_err(), expected, "{text}");
        if let Err(error) = result {
            let error = error.to_string();
            assert!(error.contains("connections[1]: `second` collides with `first`"), "{error}");
        }
    }
}

#[test]
fn secrets_are_never_printed() {
    let files = Files::new(&[
        ("secret", "file-hunter2\n"),
        (
            "a.toml",
            r#"
            [[connections]]
            name = "a"
            account_id = "111122223333"
            credentials = { kind = "keys", access_key_id = "AKIA", secret_access_key = "hunter2", session_token = "hunter2" }
            [kafka.librdkafka]
            "sasl.password" = "hunter2"
            "ssl.key.pem" = "hunter2"
            "sasl.jaas.config" = "hunter2"
            sasl = { mechanisms = "PLAIN", password = "hunter2", jaas = { token = ["hunter2"] } }
            [kafka.oauth]
            token_endpoint = "https://login.example.com/token"
            client_secret = "hunter2"
            [nats]
            servers = ["nats://user:hunter2@host:4222"]
            password = "hunter2"
            token = "hunter2"
            token_file = "/run/token"
            "#,
        ),
    ]);
    let loaded = load(&files.paths[1..], []).unwrap();
    assert!(!format!("{loaded:?}").contains("hunter2"), "{loaded:?}");
    for json in [false, true] {
        let text = show(&loaded, json);
        assert!(
            !text.contains("hunter2")
                && text.contains("[redacted]")
                && text.contains("/run/token")
                && text.contains("https://login.example.com/token"),
            "{text}"
        );
    }

    let text = format!(
        "[[connections]]\nname = \"a\"\ncredentials = {{ kind = \"keys\", access_key_id = \"AKIA\", secret_access_key_file = {:?} }}",
        files.paths[0]
    );
    let file = Files::new(&[("b.toml", &text)]).load(&[]).unwrap();
    let CredentialsConfig::Keys { secret_access_key, .. } = &file.config.connections[0].credentials else {
        panic!("{file:?}")
    };
    assert_eq!(secrecy::ExposeSecret::expose_secret(secret_access_key), "file-hunter2");
    assert!(!format!("{file:?}").contains("hunter2"));
}

#[test]
fn errors_do_not_repeat_secrets() {
    let connection = |credentials: &str| {
        format!("[[connections]]\nname = \"a\"\n[connections.credentials]\n{credentials}")
    };
    for text in [
        connection("kind = \"keys\"\naccess_key_id = \"A\"\nsecret_access_key = hunter2"),
        connection("kind = \"keys\"\naccess_key_id = \"A\"\nsecret_access_key = \"hunter2"),
        connection("kind = \"keys\"\naccess_key_id = \"A\"\nsecret_access_key = \"hun\\qter2\" # hunter2"),
        connection("kind = \"keys\"\naccess_key_id = \"A\"\nsecret_access_key = \" hunter2\""),
        connection("kind = \"keys\"\naccess_key_id = \"A\"\nsecret_access_key = [\"hunter2\"]"),
        connection("kind = \"keys\"\naccess_key_id = \"A\"\nsecret_acces_key = \"hunter2\""),
        connection("kind = \"keys\"\naccess_key_id = \"A hunter2\"\nsecret_access_key = \"s\""),
        connection("kind = \"profile\"\nprofile = \"p\"\nsecret_access_key = \"hunter2\""),
        "[[connections]]\nname = \"a\"\nendpoint_url = \"http://a:hunter2@host\"".to_owned(),
    ] {
        let files = Files::new(&[("a.toml", &text)]);
        let error = files.load(&[]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_secret_file_others_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;

    let files = Files::new(&[("secret", "s"), ("a.toml", "")]);
    let text = format!(
        "[[connections]]\nname = \"a\"\ncredentials = {{ kind = \"keys\", access_key_id = \"A\", secret_access_key_file = {:?} }}",
        files.paths[0]
    );
    for (mode, warned) in [(0o600, false), (0o640, false), (0o604, true)] {
        std::fs::set_permissions(&files.paths[0], std::fs::Permissions::from_mode(mode)).unwrap();
        let warnings = loaded(&text).warnings;
        assert_eq!(
            warnings.iter().any(|warning| warning.contains("chmod 600")),
            warned,
            "{mode:o} {warnings:?}"
        );
    }
}

#[test]
fn what_is_in_force_is_shown_with_its_origin() {
    let files = Files::new(&[(
        "a.toml",
        "[[connections]]\nname = \"main\"\nfilter.record_types = [\"Tax\"]\ncredentials = { kind = \"keys\", access_key_id = \"A\", secret_access_key = \"s\" }",
    )]);
    let loaded = files
        .load(&[("BILLING_SOURCE__ADMIN__LISTEN", ""), ("BILLING_SOURCE__POLL__SETTLE_DAYS", "3")])
        .unwrap();
    insta::assert_snapshot!(files.plain(&show(&loaded, false)), @r#"
    source.source                                 "cloud.amazon.billing"             built-in default
    source.type_prefix                            "amazon.billing"                   built-in default
    poll.interval                                 "8h"                               built-in default
    poll.claim_ttl                                "2m"                               built-in default
    poll.instance                                 ""                                 built-in default
    poll.settle_days                              3                                  BILLING_SOURCE__POLL__SETTLE_DAYS
    poll.publish_zero                             false                              built-in default
    poll.concurrency                              4                                  built-in default
    poll.max_pages                                500                                built-in default
    poll.grace                                    "20s"                              built-in default
    budget.requests_per_day                       24                                 built-in default
    budget.requests_per_month                     0                                  built-in default
    connections[0].name                           "main"                             a.toml
    connections[0].granularity                    ["daily"]                          built-in default
    connections[0].metrics                        ["AmortizedCost","UnblendedCost"]  built-in default
    connections[0].group_by                       []                                 built-in default
    connections[0].filter.record_types            ["Tax"]                            a.toml
    connections[0].region                         "us-east-1"                        built-in default
    connections[0].credentials.kind               "keys"                             a.toml
    connections[0].credentials.access_key_id      "A"                                a.toml
    connections[0].credentials.secret_access_key  "[redacted]"                       a.toml
    transport.kind                                "local"                            built-in default
    local.output                                  "-"                                built-in default
    local.state                                   "billing-source.db"                built-in default
    admin.listen                                  ""                                 BILLING_SOURCE__ADMIN__LISTEN
    "#);
    let json = files.plain(&show(&loaded, true));
    let line = json.lines().find(|line| line.contains("settle_days")).unwrap();
    insta::assert_snapshot!(line, @r#"{"key":"poll.settle_days","value":3,"origin":"BILLING_SOURCE__POLL__SETTLE_DAYS"}"#);
    assert_eq!(json.lines().count(), loaded.shown.len());
}
