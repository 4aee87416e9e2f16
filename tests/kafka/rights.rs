//! `check --connect` on a cluster that forbids: each missing right is named, and the commands it prints,
//! run by Kafka's own tools, are all it takes.

use amazon_billing_source::{
    config::KafkaConfig,
    transport::{Transport as _, TransportErrorKind as Kind, kafka::Kafka},
};

use crate::{
    broker::{Broker, java, ports::free_port},
    support::{Process, change, config, consume},
};

/// A broker with an authorizer: who comes in the clear may do everything, `billing` what it is granted.
struct Strict {
    broker: Broker,
    servers: String,
}

impl Strict {
    fn start() -> Self {
        let port = free_port();
        let more = format!(
            "listeners=PLAINTEXT://127.0.0.1:{{port}},USERS://127.0.0.1:{port},CONTROLLER://127.0.0.1:{{controller}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},USERS://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,USERS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
listener.name.users.sasl.enabled.mechanisms=PLAIN
listener.name.users.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_billing=\"right\";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
auto.create.topics.enable=false
"
        );
        Self { broker: Broker::start(&more, &[]), servers: format!("127.0.0.1:{port}") }
    }

    fn config(&self, name: &str) -> KafkaConfig {
        let mut config = KafkaConfig {
            bootstrap_servers: self.servers.clone(),
            create_topics: false,
            ..config(&self.broker, name)
        };
        for (key, value) in [
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanisms", "PLAIN"),
            ("sasl.username", "billing"),
            ("sasl.password", "right"),
        ] {
            config.librdkafka.insert(key.to_owned(), value.to_owned().into());
        }
        config
    }

    /// Runs what was printed, as the owner of the cluster: over the listener where everything is allowed.
    fn run(&self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let class = match words[0] {
            "kafka-topics.sh" => "org.apache.kafka.tools.TopicCommand",
            "kafka-configs.sh" => "kafka.admin.ConfigCommand",
            "kafka-acls.sh" => "org.apache.kafka.tools.AclCommand",
            other => panic!("no tool of Kafka: {other}"),
        };
        let servers = self.broker.servers();
        let arguments = words[1..].iter().map(|word| if *word == self.servers { &*servers } else { *word });
        let output = java().arg(class).args(arguments).output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{command}");
        assert!(output.status.success(), "{command}\n{said}");
    }

    /// What a check says: the facts, or the error's words with its commands.
    async fn check(&self, config: &KafkaConfig) -> Result<String, (Kind, String, Vec<String>)> {
        match Kafka::connect(config).unwrap().check().await {
            Ok(facts) => Ok(facts.join("\n")),
            Err(error) => {
                let hint = error.hint.unwrap_or_default();
                let commands = hint.lines().map(str::trim).filter(|line| line.starts_with("kafka-"));
                Err((error.kind, error.message, commands.map(str::to_owned).collect()))
            }
        }
    }
}

fn printed(facts: &str, tool: &str) -> Vec<String> {
    let commands = facts.lines().filter_map(|line| line.find(tool).map(|at| line[at..].to_owned()));
    commands.map(|command| command.trim_end_matches([')', '.']).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_commands_are_all_it_takes_and_each_right_that_is_missing_is_named() {
    let strict = Strict::start();
    let config = strict.config("rights");
    // From nothing: topics that may not even be seen, then created and granted as it is told.
    let mut commands = 0;
    let facts = loop {
        match strict.check(&config).await {
            Ok(facts) => break facts,
            Err((kind, message, printed)) => {
                assert!(matches!(kind, Kind::Rejected | Kind::LayoutChanged), "{message}");
                assert!(!printed.is_empty(), "no command for: {message}");
                println!("{message}");
                for command in printed {
                    strict.run(&command);
                    commands += 1;
                }
                assert!(commands < 12, "it is never content: {message}");
            }
        }
    };
    println!("{facts}");
    assert!(facts.contains("may write to state topic") && facts.contains("may write to topic"), "{facts}");
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    process.publish(&[change("Tax", 1)]).await.unwrap();
    for isolation in ["read_committed", "read_uncommitted"] {
        let records = consume(&strict.broker.servers(), &config.topic, isolation);
        assert_eq!(records.len(), 1, "checking left nothing behind");
    }

    // Each right taken away again, and granted as it is told.
    let (topic, state) = (config.topic.clone(), config.state_topic.clone());
    let on_id = format!("--transactional-id {state}. --resource-pattern-type prefixed");
    for (resource, operations, words) in [
        (format!("--topic {topic}"), "Write", format!("may not write to topic `{topic}`")),
        (format!("--topic {topic}"), "Read", format!("may not read topic `{topic}`")),
        (format!("--topic {state}"), "Write", format!("may not write to state topic `{state}`")),
        (format!("--topic {state}"), "Read", format!("may not read state topic `{state}`")),
        (on_id, "Write Describe", format!("may not begin transactions `{state}.")),
    ] {
        let listed: String = operations.split(' ').map(|o| format!(" --operation {o}")).collect();
        strict.run(&format!(
            "kafka-acls.sh --bootstrap-server {} --remove --force --allow-principal User:billing{listed} {resource}",
            strict.servers
        ));
        let (kind, message, commands) = strict.check(&config).await.unwrap_err();
        assert_eq!(kind, Kind::Rejected, "{message}");
        assert!(message.contains(&words), "{words}: {message}");
        assert_eq!(commands.len(), 1, "{message} {commands:?}");
        if operations == "Write" && resource.ends_with(&topic) {
            // `run` says it, too, and does not wait for it.
            let mut process = Process::new(&config);
            process.recover().await.unwrap();
            let error = process.publish(&[change("Tax", 2)]).await.unwrap_err();
            assert_eq!(error.kind, Kind::Rejected, "{error}");
            assert!(error.hint.unwrap().contains("grant the principal"));
        }
        strict.run(&commands[0]);
        strict.check(&config).await.unwrap();
    }
    // Without this one it works, and says what it could not look at.
    strict.run(&format!(
        "kafka-acls.sh --bootstrap-server {} --remove --force --allow-principal User:billing --operation DescribeConfigs --topic {topic}",
        strict.servers
    ));
    let facts = strict.check(&config).await.unwrap();
    let commands = printed(&facts, "kafka-acls.sh");
    assert_eq!(commands.len(), 1, "{facts}");
    strict.run(&commands[0]);
    assert_eq!(printed(&strict.check(&config).await.unwrap(), "kafka-acls.sh"), [""; 0]);

    // Whoever may not create topics is told that, and not what reading and writing them takes.
    let config = KafkaConfig { create_topics: true, ..strict.config("rights-new") };
    for topic in [&config.topic, &config.state_topic] {
        strict.run(&format!(
            "kafka-acls.sh --bootstrap-server {} --add --allow-principal User:billing --operation Describe --topic {topic}",
            strict.servers
        ));
    }
    let error = Process::new(&config).recover().await.unwrap_err();
    assert_eq!(error.kind, Kind::Rejected, "{error}");
    assert!(error.hint.unwrap().starts_with("grant the principal Create on both topics"));
}

/// What is wrong with settings, put right by what is printed.
#[tokio::test(flavor = "multi_thread")]
async fn the_printed_settings_put_topics_right() {
    let strict = Strict::start();
    let config =
        KafkaConfig { bootstrap_servers: strict.broker.servers(), ..config(&strict.broker, "settings") };
    let config = KafkaConfig { create_topics: false, ..config };
    let servers = &config.bootstrap_servers;
    crate::support::create_topic(servers, &config.topic, 1, &[("retention.ms", "604800000")]).await;
    let wrong = [("cleanup.policy", "delete"), ("min.insync.replicas", "2")];
    crate::support::create_topic(servers, &config.state_topic, 8, &wrong).await;
    let (kind, _, commands) = strict.check(&config).await.unwrap_err();
    assert_eq!((kind, commands.len()), (Kind::LayoutChanged, 2));
    for command in &commands {
        strict.run(command);
    }
    let facts = strict.check(&config).await.unwrap();
    // What only is advisable.
    let advice = printed(&facts, "kafka-configs.sh");
    assert_eq!(advice.len(), 1, "{facts}");
    for command in &advice {
        strict.run(command);
    }
    assert_eq!(printed(&strict.check(&config).await.unwrap(), "kafka-configs.sh"), [""; 0]);
}
