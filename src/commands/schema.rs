//! `schema`: the contracts of the events, as they are published.
//!
//! What is printed is the file, byte for byte; nothing is made here.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, TypedValueParser},
    error::ErrorKind,
};
use serde_json::json;

use super::print;
use crate::{
    config::suggestion,
    event::SCHEMA_BASE,
    exit::{Exit, report},
};

/// A contract: a JSON Schema, or the AsyncAPI document over them.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    /// The event type, or the document's name.
    pub name: &'static str,
    /// Its version: three numbers for ours, two for the one of `CloudEvents`.
    pub version: &'static str,
    /// Where it lies under `schemas/`, and under the address the schemas are published at.
    pub path: &'static str,
    /// What it describes.
    pub about: &'static str,
    /// The file.
    pub text: &'static str,
}

/// Every contract in its newest version.
pub const CONTRACTS: [Contract; 5] = [
    Contract {
        name: "amazon.billing.daily",
        version: "1.0.0",
        path: "amazon.billing.daily/1.0.0.json",
        about: "`data` of a daily event",
        text: include_str!("../../schemas/amazon.billing.daily/1.0.0.json"),
    },
    Contract {
        name: "amazon.billing.hourly",
        version: "1.0.0",
        path: "amazon.billing.hourly/1.0.0.json",
        about: "`data` of an hourly event",
        text: include_str!("../../schemas/amazon.billing.hourly/1.0.0.json"),
    },
    Contract {
        name: "amazon.billing.event",
        version: "1.0.0",
        path: "amazon.billing.event/1.0.0.json",
        about: "a whole event as JSON",
        text: include_str!("../../schemas/amazon.billing.event/1.0.0.json"),
    },
    Contract {
        name: "asyncapi",
        version: "1.0.0",
        path: "asyncapi.yaml",
        about: "Kafka and NATS, both content modes",
        text: include_str!("../../schemas/asyncapi.yaml"),
    },
    Contract {
        name: "cloudevents",
        version: "1.0",
        path: "cloudevents.json",
        about: "any CloudEvent as JSON, by the CloudEvents project",
        text: include_str!("../../schemas/cloudevents.json"),
    },
];

impl Contract {
    /// The last word of the name, which does as well: `daily`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// Its address; of the schemas of `data` what `dataschema` and `$id` say.
    pub fn id(&self) -> String {
        format!("{SCHEMA_BASE}/{}", self.path)
    }
}

/// Which contract to print.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  amazon-billing-source schema                                    # what there is
  amazon-billing-source schema amazon.billing.daily > daily.json
  amazon-billing-source schema --to contracts                     # all of them, as files")]
pub struct SchemaArgs {
    /// Event type or document; without it, the list of them, as JSON lines in a pipe
    #[arg(value_name = "TYPE", value_parser = ContractParser)]
    contract: Option<Contract>,
    /// Write every file below a folder, in the layout they refer to each other by
    #[arg(long, value_name = "DIR", conflicts_with = "contract")]
    to: Option<PathBuf>,
}

/// Finds a contract by its name; for another one it knows the nearest.
#[derive(Clone, Copy, Debug)]
struct ContractParser;

impl TypedValueParser for ContractParser {
    type Value = Contract;

    fn parse_ref(&self, cmd: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Contract, Error> {
        let written = value.to_string_lossy();
        let meant = |contract: &&Contract| contract.name == written || contract.short_name() == written;
        CONTRACTS.iter().find(meant).copied().ok_or_else(|| {
            let names = CONTRACTS.map(|contract| contract.name);
            let (hint, _) = match suggestion(&written, &CONTRACTS.map(|contract| contract.short_name())) {
                near @ (_, Some(_)) => near,
                _ => suggestion(&written, &names),
            };
            let text =
                format!("`{written}` is no event type of this program, and no document\n  hint: {hint}\n");
            Error::raw(ErrorKind::InvalidValue, text).with_cmd(cmd)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = CONTRACTS.iter().map(|contract| {
            PossibleValue::new(contract.name).alias(contract.short_name()).help(contract.about)
        });
        Some(Box::new(values))
    }
}

/// Prints one contract or the list, or writes them all.
pub fn run(args: &SchemaArgs) -> Exit {
    if let Some(folder) = &args.to {
        return match write_all(folder) {
            Ok(written) => print(&written),
            Err((path, error)) => {
                report(
                    &format!("could not write `{}`: {error}", path.display()),
                    Some("name a folder that can be written to; it is created where it does not exist"),
                );
                Exit::Failed
            }
        };
    }
    match &args.contract {
        None => print(&list(!io::stdout().is_terminal())),
        Some(contract) => print(contract.text),
    }
}

fn list(json: bool) -> String {
    let mut text = String::new();
    if !json {
        text = format!("{:<21}  {:<7}  {:<50}  id\n", "type", "version", "describes");
    }
    for contract in &CONTRACTS {
        let Contract { name, version, about, .. } = contract;
        let id = contract.id();
        let line = if json {
            json!({ "type": name, "version": version, "describes": about, "id": id }).to_string()
        } else {
            format!("{name:<21}  {version:<7}  {about:<50}  {id}")
        };
        writeln!(text, "{line}").expect("a string takes everything");
    }
    text
}

/// The paths written, a line each.
fn write_all(folder: &Path) -> Result<String, (PathBuf, io::Error)> {
    let mut written = String::new();
    for contract in &CONTRACTS {
        let path = folder.join(contract.path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|error| (parent.to_owned(), error))?;
        fs::write(&path, contract.text).map_err(|error| (path.clone(), error))?;
        writeln!(written, "{}", path.display()).expect("a string takes everything");
    }
    Ok(written)
}
