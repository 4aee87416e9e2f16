//! The local transport's promises, on real files.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use super::*;
use crate::{
    cost::CostKey,
    dedup::{Change, ChangeKind},
    event::{EventFactory, tests as fixtures},
    transport::Outgoing,
};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self) -> LocalConfig {
        LocalConfig { output: Some(self.path("out.jsonl")), state: self.path("state.db") }
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.path("out.jsonl")).unwrap().lines().map(str::to_owned).collect()
    }
}

fn change(service: &'static str, revision: u32) -> Change<'static> {
    let base = fixtures::change("2023-01-27", "Tax");
    Change {
        key: CostKey { service, ..base.key },
        revision,
        kind: if revision == 1 { ChangeKind::New } else { ChangeKind::Revised },
        previous: (revision > 1).then(|| base.previous.clone()).flatten(),
        ..base
    }
}

/// A batch decided at the end `recovered_to` of the log.
fn batch(recovered_to: u64, changes: &[Change<'_>]) -> Batch {
    let factory = EventFactory::new(fixtures::scope(), "amazon.billing");
    let events = changes.iter().map(|change| Outgoing::of(&factory, change, &BTreeMap::new())).collect();
    let connection = ConnectionState { name: "main".to_owned(), ..Default::default() };
    Batch { scope: factory.scope().id(), recovered_to: Some(recovered_to), events, connection }
}

/// As the outbox takes them.
fn lines(events: Vec<Outgoing>) -> Vec<(StateRecord, Vec<u8>)> {
    let line = |outgoing: Outgoing| {
        let line = structured_json(outgoing.event()).unwrap();
        (outgoing.record, line)
    };
    events.into_iter().map(line).collect()
}

fn scope() -> String {
    fixtures::scope().id()
}

#[tokio::test]
async fn what_was_published_is_recovered_and_written_once() {
    let folder = Folder::new();
    {
        let local = Local::connect(&folder.config()).unwrap();
        let deliveries = local.publish(batch(0, &[change("Tax", 1), change("A", 1)])).await.unwrap();
        assert_eq!(deliveries, [Delivery::Stored(1), Delivery::Stored(2)]);
        local.publish(batch(2, &[change("Tax", 2)])).await.unwrap();
        local.close().await.unwrap();
    }
    let local = Local::connect(&folder.config()).unwrap();
    let mut ledger = Ledger::new();
    let state = local.recover(&scope(), &mut ledger).await.unwrap();
    assert_eq!(state.name, "main");
    assert_eq!(ledger.len(), 2);
    assert_eq!(ledger.recovered_to(), Some(3));
    assert_eq!(ledger.previous(&change("Tax", 1).key).unwrap().revision(), 2);
    assert_eq!(folder.lines().len(), 3);
}

/// Takes so many bytes, then fails.
struct Failing(Arc<Mutex<Vec<u8>>>, usize);

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = self.0.lock().unwrap();
        let room = self.1.saturating_sub(taken.len()).min(bytes.len());
        if room == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        taken.extend_from_slice(&bytes[..room]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_stream_that_fails_gets_the_outbox_again_to_the_letter() {
    let folder = Folder::new();
    let state = folder.path("state.db");
    let first = Arc::new(Mutex::new(Vec::new()));
    {
        let local = Local::with_writer(&state, Box::new(Failing(Arc::clone(&first), 100))).unwrap();
        let error = local.publish(batch(0, &[change("Tax", 1), change("A", 1)])).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unknown);
        assert!(error.hint.unwrap().contains("nothing is lost"));
    }
    let second = Arc::new(Mutex::new(Vec::new()));
    let local = Local::with_writer(&state, Box::new(Failing(Arc::clone(&second), usize::MAX))).unwrap();
    let mut ledger = Ledger::new();
    local.recover(&scope(), &mut ledger).await.unwrap();
    let (first, second) = (first.lock().unwrap().clone(), second.lock().unwrap().clone());
    assert_eq!(first.len(), 100);
    assert!(second.starts_with(&first));
    assert_eq!(String::from_utf8(second).unwrap().lines().count(), 2);
    assert_eq!(ledger.len(), 2);
}

/// A crash at every byte: state committed, the file written up to there, nothing noted.
#[tokio::test]
async fn a_file_never_gets_an_event_twice_wherever_the_write_was_torn() {
    let folder = Folder::new();
    let config = folder.config();
    {
        let local = Local::connect(&config).unwrap();
        local.publish(batch(0, &[change("Before", 1)])).await.unwrap();
        let mut inner = lock(&local.0).unwrap();
        let batch = batch(1, &[change("Tax", 1), change("A", 1)]);
        let events = lines(batch.events);
        inner.store.commit(&batch.scope, &batch.connection, &events).unwrap();
        inner.store.checkpoint().unwrap();
    }
    let before = fs::read(folder.path("out.jsonl")).unwrap();
    let state = fs::read(folder.path("state.db")).unwrap();
    let whole = {
        drop(Local::connect(&config).unwrap().recover(&scope(), &mut Ledger::new()).await.unwrap());
        fs::read(folder.path("out.jsonl")).unwrap()
    };
    assert!(whole.len() > before.len());
    for length in (before.len()..=whole.len()).step_by(13).chain([whole.len()]) {
        // With garbage of a power cut in place of the torn rest, every other time.
        let mut torn = whole[..length].to_vec();
        if length % 2 == 0 && torn.last() == Some(&b'\n') {
            torn.extend([0; 7]);
        }
        fs::write(folder.path("out.jsonl"), &torn).unwrap();
        fs::write(folder.path("state.db"), &state).unwrap();
        for leftover in ["state.db-wal", "state.db-shm"] {
            fs::remove_file(folder.path(leftover)).ok();
        }
        let local = Local::connect(&config).unwrap();
        local.recover(&scope(), &mut Ledger::new()).await.unwrap();
        local.recover(&scope(), &mut Ledger::new()).await.unwrap();
        assert_eq!(fs::read(folder.path("out.jsonl")).unwrap(), whole, "torn at {length}");
    }
}

/// An attempt that failed in the middle, and the next one of the same process: what is there is completed,
/// and what is none of ours is replaced.
#[tokio::test]
async fn a_write_that_failed_is_gone_on_with() {
    for (kept, garbage) in [(0, ""), (1, ""), (300, ""), (300, "\0\0\0"), (0, "x"), (usize::MAX, "")] {
        let folder = Folder::new();
        let local = Local::connect(&folder.config()).unwrap();
        local.publish(batch(0, &[change("Before", 1)])).await.unwrap();
        let batch = batch(1, &[change("Tax", 1), change("A", 1)]);
        let events = lines(batch.events);
        let mut whole = fs::read(folder.path("out.jsonl")).unwrap();
        let mut there = whole.clone();
        let new: Vec<u8> = events.iter().flat_map(|(_, line)| [line, &b"\n"[..]].concat()).collect();
        whole.extend(&new);
        there.extend(&new[..kept.min(new.len())]);
        there.extend(garbage.as_bytes());
        lock(&local.0).unwrap().store.commit(&batch.scope, &batch.connection, &events).unwrap();
        fs::write(folder.path("out.jsonl"), there).unwrap();
        local.recover(&scope(), &mut Ledger::new()).await.unwrap();
        assert_eq!(fs::read(folder.path("out.jsonl")).unwrap(), whole, "{kept} {garbage:?}");
        local.recover(&scope(), &mut Ledger::new()).await.unwrap();
        assert_eq!(fs::read(folder.path("out.jsonl")).unwrap(), whole, "{kept} {garbage:?}");
    }
}

#[tokio::test]
async fn a_file_rotated_or_cut_under_a_running_process_is_followed() {
    let folder = Folder::new();
    let local = Local::connect(&folder.config()).unwrap();
    local.publish(batch(0, &[change("Tax", 1)])).await.unwrap();
    fs::rename(folder.path("out.jsonl"), folder.path("out.jsonl.1")).unwrap();
    local.publish(batch(1, &[change("Tax", 2)])).await.unwrap();
    assert_eq!(folder.lines().len(), 1, "a new file");
    fs::OpenOptions::new().write(true).open(folder.path("out.jsonl")).unwrap().set_len(0).unwrap();
    local.publish(batch(2, &[change("Tax", 3)])).await.unwrap();
    let lines = folder.lines();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with('{') && lines[0].contains("\"revision\":3"), "{lines:?}");
    drop(local);
    let local = Local::connect(&folder.config()).unwrap();
    local.publish(batch(3, &[change("Tax", 4)])).await.unwrap();
    assert_eq!(folder.lines().len(), 2);
    assert_eq!(fs::read_to_string(folder.path("out.jsonl.1")).unwrap().lines().count(), 1);
}

/// The state is older than the file: every event decided again is in the file already.
#[tokio::test]
async fn a_restored_state_repeats_nothing_in_the_file() {
    let folder = Folder::new();
    {
        let local = Local::connect(&folder.config()).unwrap();
        local.publish(batch(0, &[change("Tax", 1)])).await.unwrap();
        local.close().await.unwrap();
    }
    let backup = fs::read(folder.path("state.db")).unwrap();
    {
        let local = Local::connect(&folder.config()).unwrap();
        local.publish(batch(1, &[change("B", 1)])).await.unwrap();
        local.publish(batch(2, &[change("C", 1)])).await.unwrap();
    }
    for leftover in ["state.db-wal", "state.db-shm"] {
        fs::remove_file(folder.path(leftover)).ok();
    }
    fs::write(folder.path("state.db"), backup).unwrap();
    let local = Local::connect(&folder.config()).unwrap();
    local.publish(batch(1, &[change("B", 1)])).await.unwrap();
    local.publish(batch(2, &[change("C", 1), change("D", 1)])).await.unwrap();
    let lines = folder.lines();
    assert_eq!(lines.len(), 4, "{lines:#?}");
}

#[tokio::test]
async fn a_device_is_no_output_file() {
    let folder = Folder::new();
    let config = LocalConfig { output: Some(PathBuf::from("/dev/null")), state: folder.path("state.db") };
    let error = refused(&config);
    assert_eq!(error.kind, Kind::Foreign);
    assert!(error.hint.unwrap().contains("output = \"-\""));
}

#[tokio::test]
async fn a_rotated_file_is_begun_anew() {
    let folder = Folder::new();
    {
        let local = Local::connect(&folder.config()).unwrap();
        local.publish(batch(0, &[change("Tax", 1)])).await.unwrap();
    }
    fs::rename(folder.path("out.jsonl"), folder.path("out.jsonl.1")).unwrap();
    let local = Local::connect(&folder.config()).unwrap();
    local.publish(batch(1, &[change("Tax", 2)])).await.unwrap();
    assert_eq!(folder.lines().len(), 1);
    assert!(folder.lines()[0].contains("\"revision\":2"));
}

fn refused(config: &LocalConfig) -> TransportError {
    Local::connect(config).err().expect("refused")
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let folder = Folder::new();
    let _first = Local::connect(&folder.config()).unwrap();
    let error = refused(&folder.config());
    assert_eq!(error.kind, Kind::InUse);
    assert!(error.message.contains(&format!("process {}", std::process::id())), "{error}");
    // Another state, the same file.
    let other = LocalConfig { state: folder.path("other.db"), ..folder.config() };
    assert_eq!(refused(&other).kind, Kind::InUse);
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    let state = folder.path("state.db");
    let config = folder.config();
    let check = |bytes: &[u8], kind: Kind, words: &str| {
        fs::write(&state, bytes).unwrap();
        let error = refused(&config);
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint.is_some());
        assert_eq!(fs::read(&state).unwrap(), bytes, "left as it is");
        assert!(!folder.path("out.jsonl").exists(), "nothing begun");
    };
    check(b"a letter to my aunt", Kind::Foreign, "is not a state file");

    let foreign = folder.path("foreign.db");
    let db = rusqlite::Connection::open(&foreign).unwrap();
    db.execute_batch("CREATE TABLE aunts (name TEXT)").unwrap();
    drop(db);
    check(&fs::read(&foreign).unwrap(), Kind::Foreign, "database of another program");

    let newer = folder.path("newer.db");
    drop(Local::connect(&LocalConfig { output: None, state: newer.clone() }).unwrap());
    let db = rusqlite::Connection::open(&newer).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(db);
    check(&fs::read(&newer).unwrap(), Kind::Foreign, "has layout 99");

    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    assert!(refused(&config).to_string().contains("is a folder"));
}

#[tokio::test]
async fn a_foreign_or_orphaned_output_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    let output = folder.path("out.jsonl");
    let config = folder.config();
    fs::write(&output, "dear diary\n").unwrap();
    assert_eq!(refused(&config).kind, Kind::StateMissing);
    fs::remove_file(&output).unwrap();
    {
        let local = Local::connect(&config).unwrap();
        local.publish(batch(0, &[change("Tax", 1)])).await.unwrap();
    }
    // Somebody else's line behind ours, whole or half.
    for tail in ["dear diary\n", "dear diary"] {
        let ours = fs::read(&output).unwrap();
        let mut bytes = ours.clone();
        bytes.extend_from_slice(tail.as_bytes());
        fs::write(&output, &bytes).unwrap();
        assert_eq!(refused(&config).kind, Kind::Foreign, "{tail}");
        assert_eq!(fs::read(&output).unwrap(), bytes, "left as it is");
        fs::write(&output, ours).unwrap();
    }
    // The state is lost, the events are there: everything would be published twice.
    fs::remove_file(folder.path("state.db")).unwrap();
    let error = refused(&config);
    assert_eq!(error.kind, Kind::StateMissing);
    assert_eq!(folder.lines().len(), 1);
}

/// A kill or a full disk between the first page of the file and its tables: nothing was lost yet.
#[tokio::test]
async fn a_state_whose_creation_was_cut_short_is_created_anew() {
    let folder = Folder::new();
    let db = rusqlite::Connection::open(folder.path("state.db")).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    drop(db);
    assert!(fs::metadata(folder.path("state.db")).unwrap().len() > 0);
    let local = Local::connect(&folder.config()).unwrap();
    local.publish(batch(0, &[change("Tax", 1)])).await.unwrap();
    assert_eq!(folder.lines().len(), 1);
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let folder = Folder::new();
    let config = LocalConfig { output: None, state: folder.path("no/such/folder/state.db") };
    let error = refused(&config);
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.to_string().contains("no/such/folder/state.db"), "{error}");
}

#[tokio::test]
async fn the_state_can_be_read_beside_the_process_that_writes_it() {
    let folder = Folder::new();
    let local = Local::connect(&folder.config()).unwrap();
    local.publish(batch(0, &[change("Tax", 1), change("A", 1)])).await.unwrap();
    let mut seen = Vec::new();
    read_state(&folder.path("state.db"), |scope, connection, record| {
        seen.push((scope.to_owned(), connection.name.clone(), record.map(|r| r.service.clone())));
    })
    .unwrap();
    let services: Vec<_> = seen.iter().map(|(_, _, service)| service.as_deref()).collect();
    assert_eq!(services, [None, Some("A"), Some("Tax")]);
    assert_eq!(seen[0].1, "main");
    assert_eq!(read_state(&folder.path("none.db"), |_, _, _| {}).unwrap_err().kind, Kind::Unavailable);
}

/// Decided over an old view, the events would repeat: the negative control of the exact end.
#[tokio::test]
async fn a_batch_decided_over_an_old_view_is_a_conflict() {
    let folder = Folder::new();
    let local = Local::connect(&folder.config()).unwrap();
    local.publish(batch(0, &[change("Tax", 1)])).await.unwrap();
    let error = local.publish(batch(0, &[change("Tax", 1)])).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(folder.lines().len(), 1);
}

/// A batch without events is a claim or a count; it must not move the ledger's end.
#[tokio::test]
async fn a_batch_without_events_writes_the_connection_alone() {
    let folder = Folder::new();
    let local = Local::connect(&folder.config()).unwrap();
    local.publish(batch(0, &[change("Tax", 1)])).await.unwrap();
    assert_eq!(local.publish(batch(1, &[])).await.unwrap(), []);
    let mut ledger = Ledger::new();
    local.recover(&scope(), &mut ledger).await.unwrap();
    assert_eq!(ledger.recovered_to(), Some(1));
    assert_eq!(local.connections().await.unwrap().len(), 1);
}

/// A claim of this process is its own also after a write that failed; one it finds is nobody's.
#[tokio::test]
async fn a_claim_lasts_as_long_as_the_process() {
    let folder = Folder::new();
    let claimed = || {
        let mut claimed = batch(0, &[]);
        let (instance, token) = ("a".to_owned(), "t".to_owned());
        claimed.connection.claim = Some(crate::dedup::Claim { instance, token, reserved: 1, renewed: 0 });
        claimed
    };
    for _ in 0..2 {
        let local = Local::connect(&folder.config()).unwrap();
        let recover = async || local.recover(&scope(), &mut Ledger::new()).await.unwrap().claim.is_some();
        assert!(!recover().await, "whoever left one is gone");
        assert!(!recover().await, "as often as it is looked at");
        local.publish(claimed()).await.unwrap();
        assert!(recover().await, "it is this process's");
    }
}
