//! The catalogue has everything the contracts have, and the pages refer to nothing that is not there.

use std::{collections::BTreeSet, fs, path::Path};

use amazon_billing_source::cost::CostMetric;

use crate::{
    events::{database, function},
    schemas::{DAILY, EVENT, HOURLY, properties, schema},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join("docs").join(name)).unwrap()
}

/// The cells of the rows whose first cell is a name in backticks.
fn rows(page: &str) -> Vec<(String, Vec<&str>)> {
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let (name, _) = cells[0].split_once('`')?;
        Some((name.to_owned(), cells))
    });
    rows.collect()
}

#[test]
fn every_attribute_and_member_has_its_row_with_meaning_form_and_stability() {
    let catalogue = page("events.md");
    let rows = rows(&catalogue);
    let mut expected = BTreeSet::new();
    expected.extend(properties(&schema(EVENT)));
    for path in [DAILY, HOURLY] {
        for name in properties(&schema(path)) {
            // Every figure is the same: its two members are described once.
            match name.rsplit_once('.') {
                Some((_, member @ ("amount" | "unit"))) => {
                    expected.insert(format!("data.<metric>.{member}"));
                }
                Some(("previous", member))
                    if CostMetric::ALL.map(CostMetric::member_name).contains(&member) =>
                {
                    expected.insert("data.previous.<metric>".to_owned());
                }
                _ => {
                    expected.insert(format!("data.{name}"));
                }
            }
        }
    }
    for name in expected {
        let found: Vec<_> = rows.iter().filter(|(row, _)| *row == name).collect();
        assert_eq!(found.len(), 1, "one row of `{name}`");
        let (_, cells) = found[0];
        assert_eq!(cells.len(), 4, "`{name}`: name, meaning, form or unit, stability");
        assert!(cells.iter().all(|cell| !cell.trim().is_empty()), "`{name}`");
        let stability = cells[3];
        assert!(["fixed", "as configured", "opaque"].contains(&stability), "`{name}`: {stability}");
    }
}

/// What it shows as emitted is emitted.
#[test]
fn the_texts_of_the_catalogue_are_those_of_real_events() {
    let catalogue = page("events.md");
    for event in [&database().json()[1], &function().json()[0]] {
        for attribute in ["id", "subject", "partitionkey", "dataschema"] {
            let text = event[attribute].as_str().unwrap();
            assert!(catalogue.contains(text), "{attribute} {text}");
        }
    }
    for kind in ["new", "revised", "removed"] {
        assert!(catalogue.contains(&format!("`{kind}`")), "{kind}");
    }
    for header in ["content-type", "Content-Type", "ce_id", "ce-id", "ce-datacontenttype", "Nats-Msg-Id"] {
        assert!(catalogue.contains(&format!("`{header}`")), "{header}");
    }
}

#[test]
fn links_of_the_pages_lead_somewhere() {
    for name in ["events.md", "migration.md"] {
        let text = page(name);
        let mut links = 0;
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if link.starts_with("https://") {
                continue;
            }
            links += 1;
            let target = if path.is_empty() { name } else { path };
            let target = Path::new(ROOT).join("docs").join(target);
            assert!(target.exists(), "{name}: {link}");
            let heading = |line: &str| {
                let text = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                text.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect::<String>()
            };
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let found = text.lines().any(|line| line.starts_with('#') && heading(line) == anchor);
                assert!(found, "{name}: {link}");
            }
        }
        assert!(links > 0, "{name}");
    }
}
