//! Where events go: the questions, and the output reached before the next one.

use tokio::runtime::Handle;

use super::{
    answers::{Answers, Login, NatsLogin, Output, Secret, Tls},
    args::ConnectArgs,
    draft::Draft,
    flags,
    flags::Sources,
    interview::free_place,
    terminal::{Ask, Stop},
    trial,
};
use crate::commands::aside;

/// An output that can be reached, or that shall be written all the same; where the file has one, that.
pub(super) fn output(
    ask: &Ask,
    draft: &Draft,
    args: &ConnectArgs,
    handle: &Handle,
    sources: &mut Sources,
    answers: &mut Answers,
) -> Result<(), Stop> {
    let configured = draft.has_output();
    let mut given = flags::output(args, sources)?;
    let mut before = 0;
    loop {
        if configured {
            aside("events go where the file says, as those of its other connections");
        } else {
            answers.output = Some(match given.take() {
                Some(output) => output,
                None => asked(ask, args, &mut before, answers.output.as_ref())?,
            });
        }
        if let Some(password) = answers.output.as_mut().and_then(password) {
            free_place(ask, password)?;
        }
        let result = match draft.load(answers) {
            Ok(_) if args.no_test => return Ok(()),
            Ok(loaded) => handle.block_on(trial::output(&loaded)),
            Err(error) => {
                crate::exit::report(&error, None);
                Err(crate::exit::Exit::Config)
            }
        };
        if result.is_ok() {
            return Ok(());
        }
        let items = ["try the same again", "go on all the same", "stop", "answer again"];
        let items = if configured { &items[..3] } else { &items[..] };
        match ask.choose("That did not work", items, items.len() - 1)? {
            0 => given.clone_from(&answers.output),
            1 => return Ok(()),
            2 => return Err(Stop::Left),
            _ => {}
        }
    }
}

fn password(output: &mut Output) -> Option<&mut Secret> {
    match output {
        Output::Kafka { login: Some(login), .. } | Output::Nats { login: NatsLogin::User(login), .. } => {
            Some(&mut login.password)
        }
        Output::Nats { login: NatsLogin::Token(token), .. } => Some(token),
        _ => None,
    }
}

/// What was answered before is what is offered again.
fn asked(ask: &Ask, args: &ConnectArgs, before: &mut usize, last: Option<&Output>) -> Result<Output, Stop> {
    let kinds = ["a file of JSON lines", "Kafka", "NATS JetStream", "stdout"];
    *before = match args.output.output.as_deref() {
        // Only its password is missing.
        Some("kafka") => 1,
        Some("nats") => 2,
        _ => ask.choose("Where do events go?", &kinds, *before)?,
    };
    match *before {
        0 => local(ask, None, last),
        1 => kafka(ask, args, last),
        2 => nats(ask, args, last),
        _ => local(ask, Some("-"), last),
    }
}

fn local(ask: &Ask, output: Option<&str>, last: Option<&Output>) -> Result<Output, Stop> {
    let (file, state) = match last {
        Some(Output::Local { output, state }) if output != "-" => (output.as_str(), state.as_str()),
        Some(Output::Local { state, .. }) => ("events.jsonl", state.as_str()),
        _ => ("events.jsonl", flags::STATE),
    };
    let output = match output {
        Some(output) => output.to_owned(),
        None => ask.text("File", Some(file), nothing)?,
    };
    let state = ask.text("File of the state: what was published already", Some(state), nothing)?;
    Ok(Output::Local { output, state })
}

fn kafka(ask: &Ask, args: &ConnectArgs, last: Option<&Output>) -> Result<Output, Stop> {
    let (servers, topic) = match last {
        Some(Output::Kafka { servers, topic, .. }) => (servers.as_str(), topic.as_str()),
        _ => (flags::KAFKA, flags::TOPIC),
    };
    let servers = ask.text("Brokers (host:port, with commas between)", Some(servers), nothing)?;
    let ways = ["no TLS, no user", "TLS", "TLS, user and password", "user and password without TLS"];
    let way = ask.choose("How is the connection protected?", &ways, 0)?;
    let tls = if way == 1 || way == 2 { Some(tls(ask)?) } else { None };
    let login = if way >= 2 {
        let mechanisms = [flags::MECHANISM, "SCRAM-SHA-256", "PLAIN"];
        let mechanism = mechanisms[ask.choose("SASL mechanism", &mechanisms, 0)?];
        Some(login(ask, args, "kafka-password", mechanism)?)
    } else {
        None
    };
    let topic = ask.text("Topic of the events", Some(topic), nothing)?;
    let create = ask.confirm(&format!("Create `{topic}` and `{topic}-state` if they do not exist?"), true)?;
    Ok(Output::Kafka { servers, topic, create, login, tls })
}

fn nats(ask: &Ask, args: &ConnectArgs, last: Option<&Output>) -> Result<Output, Stop> {
    let (servers, stream) = match last {
        Some(Output::Nats { servers, stream, .. }) => (servers.join(","), stream.as_str()),
        _ => (flags::NATS.to_owned(), flags::STREAM),
    };
    let servers = ask.text("Servers (URLs, with commas between)", Some(&servers), nothing)?;
    let ways = ["as nobody", "credentials file, as `nsc` writes it", "user and password", "token"];
    let login = match ask.choose("Who publishes?", &ways, 0)? {
        0 => NatsLogin::Nobody,
        1 => NatsLogin::Credentials(ask.text("Credentials file", None, nothing)?),
        2 => NatsLogin::User(login(ask, args, "nats-password", "")?),
        _ => {
            let value = Some(ask.hidden("Token (not shown)", one_word)?);
            NatsLogin::Token(Secret { file: flags::beside(&args.file.path, "nats-token"), value })
        }
    };
    let tls = if servers.contains("tls://") { Some(tls(ask)?) } else { None };
    let stream = ask.text("Stream of the events", Some(stream), nothing)?;
    let create = ask.confirm(&format!("Create `{stream}` and its bucket if they do not exist?"), true)?;
    Ok(Output::Nats { servers: flags::servers(&servers), stream, create, login, tls })
}

fn login(ask: &Ask, args: &ConnectArgs, file: &str, mechanism: &str) -> Result<Login, Stop> {
    let user = ask.text("User", args.output.output_user.as_deref(), nothing)?;
    let value = Some(ask.hidden("Password (not shown)", one_word)?);
    let password = Secret { file: flags::beside(&args.file.path, file), value };
    Ok(Login { user, password, mechanism: mechanism.to_owned() })
}

fn tls(ask: &Ask) -> Result<Tls, Stop> {
    let missing =
        |path: &str| (!std::path::Path::new(path).is_file()).then(|| format!("there is no file `{path}`"));
    let ca_file = ask.optional("PEM file of who signs its certificate (empty: the system's)", missing)?;
    Ok(Tls { ca_file })
}

/// What an answer means is judged with the whole output.
fn nothing(_: &str) -> Option<String> {
    None
}

fn one_word(text: &str) -> Option<String> {
    text.contains(char::is_whitespace).then(|| "it is more than one word".to_owned())
}
