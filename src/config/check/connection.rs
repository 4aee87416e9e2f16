//! `[[connections]]`: whose costs, how finely, grouped and filtered how; and that no two of them
//! would publish under the same keys.
//!
//! Credentials and filters have files of their own.

use super::{
    credentials::credentials,
    filter::filter,
    not_one_of,
    text::{endpoint, is_digits, is_name, signing_region},
};
use crate::{
    config::{
        problem::{Problems, Refused, listed, nearest},
        settings::ConnectionSettings,
        types::{ConnectionConfig, CredentialsConfig, collide},
    },
    cost::{CostMetric, Granularity, GroupBy},
};

/// The dimensions Cost Explorer groups by (`GroupDefinition`, member `Key`), and those it groups by
/// without listing them.
pub(crate) const GROUP_DIMENSIONS: [&str; 13] = [
    "AZ",
    "BILLING_ENTITY",
    "INSTANCE_TYPE",
    "INVOICING_ENTITY",
    "LEGAL_ENTITY_NAME",
    "LINKED_ACCOUNT",
    "OPERATION",
    "PLATFORM",
    "PURCHASE_TYPE",
    "RECORD_TYPE",
    "REGION",
    "TENANCY",
    "USAGE_TYPE",
];

/// All connections; `None` only when a problem was added.
pub(crate) fn connections(
    settings: Vec<ConnectionSettings>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<Vec<ConnectionConfig>> {
    let mut connections: Vec<Option<ConnectionConfig>> = Vec::new();
    let mut names: Vec<Option<String>> = Vec::new();
    for (index, settings) in settings.into_iter().enumerate() {
        let key = format!("connections[{index}]");
        if problems.attempted(&key) {
            // It is no table, which was said.
            names.push(None);
            connections.push(None);
            continue;
        }
        if let Some(name) = &settings.name
            && let Some(first) = names.iter().position(|other| other.as_ref() == Some(name))
        {
            problems.add_hint(
                format!("{key}.name"),
                format!("`{name}` is also the name of `connections[{first}]`"),
                "a connection's name is its own: in logs and metrics nothing else tells them apart",
            );
        }
        names.push(settings.name.clone());
        connections.push(connection(&key, settings, problems, warnings));
    }
    for (index, connection) in connections.iter().enumerate() {
        let Some(connection) = connection else { continue };
        for (first, other) in connections[..index].iter().enumerate() {
            let Some(other) = other else { continue };
            if possibly_same_account(connection, other) && collide(connection, other) {
                refuse_collision(index, connection, first, other, problems);
            }
        }
    }
    connections.into_iter().collect()
}

/// Whether two connections may ask for one account, as far as the configuration can tell.
fn possibly_same_account(a: &ConnectionConfig, b: &ConnectionConfig) -> bool {
    match (&a.account_id, &b.account_id) {
        (Some(a), Some(b)) => a == b,
        _ => {
            same_identity(&a.credentials, &b.credentials)
                && a.region == b.region
                && a.endpoint_url == b.endpoint_url
                && a.sts_endpoint_url == b.sts_endpoint_url
        }
    }
}

fn same_identity(a: &CredentialsConfig, b: &CredentialsConfig) -> bool {
    use CredentialsConfig::{Default, Keys, Profile, Role};
    match (a, b) {
        (Default, Default) => true,
        (Keys { access_key_id: a, .. }, Keys { access_key_id: b, .. })
        | (Profile { profile: a }, Profile { profile: b })
        | (Role { role_arn: a, .. }, Role { role_arn: b, .. }) => a == b,
        _ => false,
    }
}

fn refuse_collision(
    index: usize,
    connection: &ConnectionConfig,
    first: usize,
    other: &ConnectionConfig,
    problems: &mut Problems,
) {
    let what = match (&connection.account_id, &other.account_id) {
        (Some(account), Some(_)) => format!("account `{account}`"),
        _ => "the account of the same credentials".to_owned(),
    };
    let (problem, hint) = match (&connection.group_by, &other.group_by) {
        (Some(a), Some(b)) if a != b => (
            format!("{what} by `{a}` here and by `{b}` there can give one key to two figures"),
            "a key ends in the value alone; give one of them a filter or a granularity of its own",
        ),
        _ => (
            format!("{what} with the same grouping and filter, so both would publish the same keys"),
            "remove one, or give it another `granularity`, `group_by` or `filter`; names are no part of a key",
        ),
    };
    problems.add_hint(
        format!("connections[{index}]"),
        format!("`{}` collides with `{}` (`connections[{first}]`): {problem}", connection.name, other.name),
        hint,
    );
}

fn connection(
    key: &str,
    settings: ConnectionSettings,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<ConnectionConfig> {
    let name = name(&format!("{key}.name"), settings.name, problems);
    let account_id = account(&format!("{key}.account_id"), settings.account_id, problems);
    let granularity = granularity(&format!("{key}.granularity"), &settings.granularity, problems);
    let metrics = metrics(&format!("{key}.metrics"), &settings.metrics, problems);
    let group_by = group_by(&format!("{key}.group_by"), &settings.group_by, problems);
    let filter = settings.filter.map_or(Ok(None), |written| {
        filter(&format!("{key}.filter"), written, problems).map(Some).ok_or(Refused)
    });
    for (name, url) in
        [("endpoint_url", &settings.endpoint_url), ("sts_endpoint_url", &settings.sts_endpoint_url)]
    {
        let Some(url) = url else { continue };
        let key = format!("{key}.{name}");
        match endpoint(url) {
            Ok(endpoint) if endpoint.exposed => warnings.push(format!(
                "{key}: `{url}` is plain http to another host; what is asked and answered can be read and \
                 changed on the way"
            )),
            Ok(_) => {}
            Err((problem, hint)) => problems.push(key, problem, hint.map(str::to_owned)),
        }
    }
    let region = signing_region(&settings.region);
    if region.is_none() {
        problems.add_hint(
            format!("{key}.region"),
            format!("`{}` is not an AWS region", settings.region),
            "leave it out, or write `us-east-1`; `cn-northwest-1` in China, `us-gov-west-1` in GovCloud",
        );
    }
    let credentials = credentials(&format!("{key}.credentials"), settings.credentials, problems, warnings);
    Some(ConnectionConfig {
        name: name?,
        account_id: account_id.ok()?,
        granularity: granularity?,
        metrics: metrics?,
        group_by: group_by.ok()?,
        filter: filter.ok()?,
        endpoint_url: settings.endpoint_url,
        sts_endpoint_url: settings.sts_endpoint_url,
        region: region?.to_owned(),
        credentials: credentials?,
    })
}

fn name(key: &str, name: Option<String>, problems: &mut Problems) -> Option<String> {
    let Some(name) = name else {
        if !problems.attempted(key) {
            problems.add_hint(key, "is missing", "every connection has a name of its own, such as `main`");
        }
        return None;
    };
    if !is_name(&name) {
        problems.add_hint(
            key,
            format!("`{name}` is not a name"),
            "lower-case letters, digits and `-`, and a letter or digit first",
        );
        return None;
    }
    Some(name)
}

fn account(key: &str, account: Option<String>, problems: &mut Problems) -> Result<Option<String>, Refused> {
    match account {
        Some(account) if !is_digits(&account, 12) => {
            let plain = account.replace(['-', ' '], "");
            let hint = if is_digits(&plain, 12) {
                format!("without separators: `account_id = \"{plain}\"`")
            } else {
                "the paying account, leading zeros included; leave it out and AWS STS is asked, which is free"
                    .to_owned()
            };
            problems.add_hint(key, format!("`{account}` is not an account; expected 12 digits"), hint);
            Err(Refused)
        }
        account => Ok(account),
    }
}

fn granularity(key: &str, written: &[String], problems: &mut Problems) -> Option<Vec<Granularity>> {
    let before = problems.count();
    let mut found = Vec::new();
    for name in written {
        match Granularity::from_name(name) {
            Some(granularity) if found.contains(&granularity) => {
                problems.add(key, format!("`{name}` is listed twice"));
            }
            Some(granularity) => found.push(granularity),
            None => {
                let problem = format!("`{name}` is not a granularity; expected `daily` or `hourly`");
                let hint = match name.to_ascii_lowercase().as_str() {
                    "weekly" => {
                        Some("Cost Explorer has no weekly data; use `daily` and sum downstream".to_owned())
                    }
                    "monthly" => {
                        Some("use `daily` and sum downstream: the sum is AWS's own figure".to_owned())
                    }
                    _ => nearest(name, ["daily", "hourly"]).map(|name| format!("did you mean `{name}`?")),
                };
                problems.push(key.to_owned(), problem, hint);
            }
        }
    }
    if written.is_empty() && !problems.attempted_within(key) {
        problems.add(key, "is empty; expected `daily`, `hourly` or both");
    }
    found.sort();
    (problems.count() == before && !found.is_empty()).then_some(found)
}

fn metrics(key: &str, written: &[String], problems: &mut Problems) -> Option<Vec<CostMetric>> {
    let names = CostMetric::ALL.map(CostMetric::aws_name);
    let before = problems.count();
    let mut found = Vec::new();
    for name in written {
        match CostMetric::from_aws_name(name) {
            Some(metric) if found.contains(&metric) => problems.add(key, format!("`{name}` is listed twice")),
            Some(metric) => found.push(metric),
            None => {
                let (problem, hint) = not_one_of(name, "a cost metric", &names);
                problems.add_hint(key, problem, hint);
            }
        }
    }
    if written.is_empty() && !problems.attempted_within(key) {
        problems.add(key, format!("is empty; expected {}", listed(&names, "or")));
    }
    found.sort();
    (problems.count() == before && !found.is_empty()).then_some(found)
}

fn group_by(key: &str, written: &[String], problems: &mut Problems) -> Result<Option<GroupBy>, Refused> {
    let before = problems.count();
    let mut found = None;
    for text in written {
        found = one_group(key, text, problems);
    }
    if written.len() > 1 && problems.count() == before {
        problems.add_hint(
            key,
            format!("lists {} groupings; expected at most one", written.len()),
            "Cost Explorer takes two, and `SERVICE` is always the first; use a connection for each",
        );
    }
    if problems.count() == before { Ok(found) } else { Err(Refused) }
}

fn one_group(key: &str, text: &str, problems: &mut Problems) -> Option<GroupBy> {
    if text == "SERVICE" {
        problems.add_hint(key, "`SERVICE` is always the first grouping", "leave it out");
        return None;
    }
    if GROUP_DIMENSIONS.contains(&text) {
        return Some(GroupBy::Dimension(text.to_owned()));
    }
    if let Some((kind, name)) = text.split_once(':') {
        let group = match kind {
            "TAG" => Some(GroupBy::Tag(name.to_owned())),
            "COST_CATEGORY" => Some(GroupBy::CostCategory(name.to_owned())),
            _ => None,
        };
        if name.trim().is_empty() {
            problems.add_hint(
                key,
                format!("`{text}` names nothing"),
                "write `TAG:team` or `COST_CATEGORY:unit`",
            );
            return None;
        }
        if group.is_some() {
            return group;
        }
        let hint = match nearest(kind, ["TAG", "COST_CATEGORY"]) {
            Some(kind) => format!("did you mean `{kind}:{name}`?"),
            None => "write `TAG:team` or `COST_CATEGORY:unit`".to_owned(),
        };
        problems.add_hint(key, format!("`{text}` is not a grouping"), hint);
        return None;
    }
    let hint = match text {
        "CHARGE_TYPE" => "Cost Explorer's name for it is `RECORD_TYPE`".to_owned(),
        _ => match nearest(text, GROUP_DIMENSIONS) {
            Some(dimension) => format!("did you mean `{dimension}`?"),
            None => format!("a tag is `TAG:{text}`; a dimension is {}", listed(&GROUP_DIMENSIONS, "or")),
        },
    };
    problems.add_hint(key, format!("`{text}` is not a grouping"), hint);
    None
}
