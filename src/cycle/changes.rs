//! What a page of an answer, or a row's absence from it, changes: pure, over the ledger.

use hashbrown::HashMap;
use jiff::Timestamp;

use crate::{
    cost::{CostKey, CostRecord},
    dedup::{Change, ChangeKind, Counts, Ledger, MissingRow, Sightings, Status, Verdict, ZeroRows, classify},
    poller::{FetchError, FetchErrorKind, Page},
};

/// The changes a page brings; every key at most once. Each row is looked up once, for its verdict and
/// for its sighting.
///
/// A key listed twice with the same figures is a page that shifted while it was read. Twice with
/// different ones is an error: whichever were published, the next poll would publish the other.
pub(super) fn classify_page<'p>(
    page: &'p Page,
    ledger: &Ledger,
    sightings: &mut Sightings,
    zero_rows: ZeroRows,
    counts: &mut Counts,
) -> Result<Vec<Change<'p>>, FetchError> {
    let observed_at = page.observed_at;
    let mut changes = Vec::new();
    let mut by_key: HashMap<_, &CostRecord> = HashMap::new();
    let mut found = None;
    for record in &page.records {
        let key = record.key();
        let row = ledger.find_after(found, &key);
        found = row.or(found);
        let previous = row.map(|row| ledger.get(row));
        let listed_before = !sightings.note(record.period, row);
        let same = match by_key.get(&(key.period, key.service, key.group)) {
            Some(before) => Some(states_the_same(before, record)),
            None if listed_before => previous.map(|known| known.is_stated_by(record)),
            None => None,
        };
        match same {
            Some(true) => continue,
            Some(false) => return Err(contradiction(&key)),
            None => {}
        }
        match classify(record, observed_at, previous, zero_rows) {
            Verdict::Changed(kind) => {
                match kind {
                    ChangeKind::New => counts.new += 1,
                    ChangeKind::Revised | ChangeKind::Removed => counts.revised += 1,
                }
                by_key.insert((key.period, key.service, key.group), record);
                changes.push(Change::of_record(record, kind, observed_at, previous));
            }
            Verdict::Unchanged => counts.unchanged += 1,
            Verdict::Zero => counts.zero += 1,
            Verdict::Stale => counts.stale += 1,
        }
    }
    Ok(changes)
}

fn states_the_same(one: &CostRecord, other: &CostRecord) -> bool {
    one.amounts == other.amounts && one.estimated == other.estimated
}

fn contradiction(key: &CostKey<'_>) -> FetchError {
    FetchError {
        kind: FetchErrorKind::Malformed,
        code: None,
        message: format!("the answer lists `{key}` twice, with different figures"),
        request_id: None,
        hint: Some("nothing more of it is published; if it stays so, ask AWS support".to_owned()),
    }
}

/// The retraction of a row that is gone; `None` where the log has something newer by now.
pub(super) fn retraction<'r>(
    row: &'r MissingRow,
    observed_at: Timestamp,
    ledger: &Ledger,
) -> Option<Change<'r>> {
    let key = row.key()?;
    let previous = ledger.previous(&key)?;
    let live = previous.status() == Status::Live && previous.observed_at() <= observed_at;
    live.then(|| Change::retraction(key, observed_at, previous))
}
