//! The SQLite file: state of every key and connection, and the outbox, in one transaction.
//!
//! A file of another program or of a newer version is refused and never written to.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};

use crate::{
    dedup::{ConnectionState, Ledger},
    transport::{StateRecord, TransportError, TransportErrorKind as Kind},
};

/// `PRAGMA application_id`: "ABS1". Tells our files from anybody else's.
const APPLICATION_ID: i32 = 0x4142_5331;

/// `PRAGMA user_version`: grows with the layout.
const LAYOUT: i32 = 1;

const SCHEMA: &str = "
CREATE TABLE ledger (
    scope   TEXT NOT NULL,
    period  TEXT NOT NULL,
    service TEXT NOT NULL,
    grp     TEXT NOT NULL,
    record  TEXT NOT NULL,
    PRIMARY KEY (scope, period, service, grp)
) WITHOUT ROWID;
CREATE TABLE connections (
    scope       TEXT PRIMARY KEY,
    state       TEXT NOT NULL,
    last_number INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id     TEXT NOT NULL,
    event  BLOB NOT NULL
);
CREATE TABLE output (
    path     TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;
";

/// The open state file of the one process that may write it.
#[derive(Debug)]
pub(super) struct Store {
    db: Connection,
    path: PathBuf,
    /// Held as long as the store; the operating system lets go of it however the process ends.
    _lock: File,
}

/// One event of the outbox.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) number: u64,
    pub(super) id: String,
    pub(super) line: Vec<u8>,
}

impl Store {
    /// Opens or creates the file, as its only writer.
    pub(super) fn open(path: &Path) -> Result<Self, TransportError> {
        let fresh = !inspect(path)?;
        let lock = lock(path)?;
        let error = |e: rusqlite::Error| failed(path, "open", &e);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(error)?;
        db.pragma_update(None, "journal_mode", "WAL").map_err(error)?;
        db.pragma_update(None, "synchronous", "FULL").map_err(error)?;
        // Half a megabyte of pages: rows are written in the order of their keys and read once.
        db.pragma_update(None, "cache_size", -512).map_err(error)?;
        let mut store = Self { db, path: path.to_owned(), _lock: lock };
        if fresh {
            store.create()?;
        }
        Ok(store)
    }

    fn create(&mut self) -> Result<(), TransportError> {
        let path = self.path.clone();
        let mut create = || -> rusqlite::Result<()> {
            let transaction = self.db.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", LAYOUT)?;
            transaction.commit()
        };
        create().map_err(|e| failed(&path, "create", &e))
    }

    /// Whether nothing was ever published from this state.
    pub(super) fn is_new(&self) -> Result<bool, TransportError> {
        self.db
            .query_row("SELECT NOT EXISTS (SELECT 1 FROM ledger)", [], |row| row.get(0))
            .map_err(|e| failed(&self.path, "read", &e))
    }

    /// Brings a ledger to the end of the scope's state; nothing is read where it already stands there.
    pub(super) fn recover(
        &self,
        scope: &str,
        ledger: &mut Ledger,
    ) -> Result<ConnectionState, TransportError> {
        let found: Option<(String, u64)> = self
            .db
            .prepare_cached("SELECT state, last_number FROM connections WHERE scope = ?1")
            .and_then(|mut query| query.query_row([scope], |row| Ok((row.get(0)?, row.get(1)?))).optional())
            .map_err(|e| failed(&self.path, "read", &e))?;
        let (state, end) = match found {
            None => (ConnectionState::default(), 0),
            Some((json, end)) => (parse_state(&self.path, &json)?, end),
        };
        if ledger.recovered_to() != Some(end) {
            ledger.clear();
            let mut restore = ledger.restore();
            read_records(&self.db, &self.path, scope, |record| {
                restore.apply(&record.key(), &record.statement.borrowed(), 0);
            })?;
            drop(restore);
            ledger.set_recovered_to(end);
        }
        Ok(state)
    }

    /// The end a batch was decided at must still be the end: an old view would repeat events.
    pub(super) fn expect_end(&self, scope: &str, expected: Option<u64>) -> Result<(), TransportError> {
        let end: Option<u64> = self
            .db
            .prepare_cached("SELECT last_number FROM connections WHERE scope = ?1")
            .and_then(|mut query| query.query_row([scope], |row| row.get(0)).optional())
            .map_err(|e| failed(&self.path, "read", &e))?;
        if expected == Some(end.unwrap_or(0)) {
            return Ok(());
        }
        let message = format!("the ledger of `{scope}` is not at the end of the state");
        Err(TransportError::new(Kind::Conflict, message))
    }

    pub(super) fn connections(&self) -> Result<Vec<(String, ConnectionState)>, TransportError> {
        read_connections(&self.db, &self.path)
    }

    /// Keys, connection and outbox in one transaction. Returns the number of each event.
    pub(super) fn commit(
        &mut self,
        scope: &str,
        connection: &ConnectionState,
        events: &[(StateRecord, Vec<u8>)],
    ) -> Result<Vec<u64>, TransportError> {
        let path = self.path.clone();
        self.try_commit(scope, connection, events).map_err(|e| failed(&path, "write", &e))
    }

    fn try_commit(
        &mut self,
        scope: &str,
        connection: &ConnectionState,
        events: &[(StateRecord, Vec<u8>)],
    ) -> rusqlite::Result<Vec<u64>> {
        let transaction = self.db.transaction()?;
        let mut numbers = Vec::with_capacity(events.len());
        {
            let mut put_record = transaction.prepare_cached(
                "INSERT INTO ledger (scope, period, service, grp, record) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET record = excluded.record",
            )?;
            let mut put_event =
                transaction.prepare_cached("INSERT INTO outbox (id, event) VALUES (?1, ?2)")?;
            for (record, line) in events {
                put_record.execute(params![
                    scope,
                    record.period.label().as_str(),
                    record.service.as_str(),
                    record.group.as_deref().unwrap_or_default(),
                    record.to_json(),
                ])?;
                put_event.execute(params![record.event_id.to_string(), line])?;
                numbers.push(u64::try_from(transaction.last_insert_rowid()).unwrap_or_default());
            }
            let state = serde_json::to_string(connection).expect("plain data");
            transaction
                .prepare_cached(
                    "INSERT INTO connections (scope, state, last_number) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET state = excluded.state,
                     last_number = max(last_number, excluded.last_number)",
                )?
                .execute(params![scope, state, numbers.last().copied().unwrap_or(0)])?;
        }
        transaction.commit()?;
        Ok(numbers)
    }

    /// The events that were committed and not proven to be written out, in order.
    pub(super) fn outbox(&self) -> Result<Vec<Pending>, TransportError> {
        let read = || -> rusqlite::Result<Vec<Pending>> {
            self.db
                .prepare_cached("SELECT number, id, event FROM outbox ORDER BY number")?
                .query_map([], |row| Ok(Pending { number: row.get(0)?, id: row.get(1)?, line: row.get(2)? }))?
                .collect()
        };
        read().map_err(|e| failed(&self.path, "read", &e))
    }

    /// Notes that everything up to a number is written out, and how far the file is proven.
    pub(super) fn written(
        &mut self,
        number: u64,
        position: Option<(&str, u64)>,
    ) -> Result<(), TransportError> {
        let path = self.path.clone();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = self.db.transaction()?;
            transaction.prepare_cached("DELETE FROM outbox WHERE number <= ?1")?.execute([number])?;
            if let Some((path, position)) = position {
                put_position(&transaction, path, position)?;
            }
            transaction.commit()
        };
        write().map_err(|e| failed(&path, "write", &e))
    }

    /// Up to where a file is known to hold our events; `None` for a file never written to.
    pub(super) fn position(&self, path: &str) -> Result<Option<u64>, TransportError> {
        self.db
            .query_row("SELECT position FROM output WHERE path = ?1", [path], |row| row.get(0))
            .optional()
            .map_err(|e| failed(&self.path, "read", &e))
    }

    /// Notes up to where a file is known to hold our events.
    pub(super) fn set_position(&self, path: &str, position: u64) -> Result<(), TransportError> {
        put_position(&self.db, path, position).map_err(|e| failed(&self.path, "write", &e))
    }

    /// Folds the write-ahead log into the file, so that what is left behind is one file.
    pub(super) fn checkpoint(&self) -> Result<(), TransportError> {
        self.db
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|e| failed(&self.path, "close", &e))
    }
}

fn put_position(db: &Connection, path: &str, position: u64) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO output (path, position) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET position = excluded.position",
        params![path, position],
    )
    .map(drop)
}

/// Whether there is a state of ours.
pub(super) fn exists(path: &Path) -> Result<bool, TransportError> {
    inspect(path)
}

/// Whether a state could be created.
pub(super) fn probe(path: &Path) -> Result<String, TransportError> {
    writable_folder(path).map_err(|e| unavailable(path, "create", &e))?;
    Ok(format!("the state `{}` does not exist yet and can be created", path.display()))
}

/// Creates a file beside `path` and removes it again.
pub(super) fn writable_folder(path: &Path) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.probe", std::process::id()));
    File::create(&name)?;
    std::fs::remove_file(&name)
}

/// Reads the state beside a running process, without its lock and without writing anything.
pub(super) fn read_only(path: &Path) -> Result<Connection, TransportError> {
    if !inspect(path)? {
        let message = format!("there is no state in `{}`", path.display());
        return Err(TransportError::new(Kind::Unavailable, message)
            .with_hint("nothing was published from here yet; is `local.state` the right path?"));
    }
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|e| failed(path, "read", &e))
}

pub(super) fn read_connections(
    db: &Connection,
    path: &Path,
) -> Result<Vec<(String, ConnectionState)>, TransportError> {
    let read = || -> rusqlite::Result<Vec<(String, String)>> {
        db.prepare("SELECT scope, state FROM connections ORDER BY scope")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    };
    read()
        .map_err(|e| failed(path, "read", &e))?
        .into_iter()
        .map(|(scope, json)| Ok((scope, parse_state(path, &json)?)))
        .collect()
}

/// Every state record of a scope, by period and service, one at a time.
pub(super) fn read_records(
    db: &Connection,
    path: &Path,
    scope: &str,
    mut each: impl FnMut(&StateRecord),
) -> Result<(), TransportError> {
    let error = |e: rusqlite::Error| failed(path, "read", &e);
    let mut query = db
        .prepare_cached("SELECT record FROM ledger WHERE scope = ?1 ORDER BY period, service, grp")
        .map_err(error)?;
    let mut rows = query.query([scope]).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        let json = row.get_ref(0).and_then(|value| Ok(value.as_str()?)).map_err(error)?;
        let record = StateRecord::from_json(json).map_err(|e| {
            TransportError::new(
                Kind::Foreign,
                format!("could not read the state in `{}`: {e}", path.display()),
            )
            .with_hint("run the version that wrote it, or restore the file from a backup")
        })?;
        each(&record);
    }
    Ok(())
}

fn parse_state(path: &Path, json: &str) -> Result<ConnectionState, TransportError> {
    serde_json::from_str(json).map_err(|e| {
        let message = format!("could not read a connection's state in `{}`: {e}", path.display());
        TransportError::new(Kind::Foreign, message)
            .with_hint("run the version that wrote it, or restore the file from a backup")
    })
}

/// Looks at a file without touching it: `false` where there is none yet, or an empty one.
fn inspect(path: &Path) -> Result<bool, TransportError> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(unavailable(path, "open", &e)),
        Ok(metadata) if metadata.is_dir() => {
            let message = format!("`{}` is a folder", path.display());
            return Err(TransportError::new(Kind::Foreign, message)
                .with_hint("`local.state` names a file, such as `billing-source.db`"));
        }
        Ok(metadata) if metadata.len() == 0 => return Ok(false),
        Ok(_) => {}
    }
    let pragma = |db: &Connection, name| db.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|e| failed(path, "open", &e))?;
    let application = pragma(&db, "application_id").map_err(|e| failed(path, "open", &e))?;
    let layout = pragma(&db, "user_version").map_err(|e| failed(path, "open", &e))?;
    if application == 0 && layout == 0 && is_blank(&db).map_err(|e| failed(path, "open", &e))? {
        return Ok(false);
    }
    if application != APPLICATION_ID {
        let message = format!("`{}` is a database of another program", path.display());
        return Err(TransportError::new(Kind::Foreign, message)
            .with_hint("it was left as it is; point `local.state` to a path of its own"));
    }
    if layout > LAYOUT {
        let message = format!(
            "the state in `{}` has layout {layout}, this program reads up to {LAYOUT}",
            path.display()
        );
        return Err(TransportError::new(Kind::Foreign, message)
            .with_hint("it was left as it is; run the newer version that wrote it"));
    }
    Ok(true)
}

/// Whether a database has nothing in it: what is left where its creation was cut short by a kill or
/// a full disk.
fn is_blank(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_master)", [], |row| row.get(0))
}

/// One process at a time: an advisory lock on `<state>.lock`, which also names the holder.
fn lock(path: &Path) -> Result<File, TransportError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(|e| unavailable(path, "open", &e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let holder = match file.read_to_string(&mut holder) {
                Ok(_) if !holder.trim().is_empty() => format!(" (process {})", holder.trim()),
                _ => String::new(),
            };
            let message = format!("the state in `{}` is in use by another process{holder}", path.display());
            return Err(TransportError::new(Kind::InUse, message)
                .with_hint("stop that one first, or give this one a `local.state` of its own"));
        }
        Err(TryLockError::Error(e)) => return Err(unavailable(path, "lock", &e)),
    }
    // The name is a courtesy to people; the lock holds without it.
    if file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).is_err() {
        tracing::debug!(path = %lock_path.display(), "the lock file could not be labelled");
    }
    Ok(file)
}

fn unavailable(path: &Path, verb: &str, error: &std::io::Error) -> TransportError {
    let message = format!("could not {verb} the state in `{}`: {error}", path.display());
    TransportError::new(Kind::Unavailable, message)
        .with_hint("the folder must exist and be writable for this user; see `local.state`")
}

fn failed(path: &Path, verb: &str, error: &rusqlite::Error) -> TransportError {
    let path = path.display();
    let (kind, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            let message = format!("`{path}` is not a state file of this program");
            return TransportError::new(Kind::Foreign, message)
                .with_hint("it was left as it is; point `local.state` to a path of its own");
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            (Kind::Foreign, "the file is damaged; restore it from a backup, or look at it with `sqlite3`")
        }
        Some(ErrorCode::DiskFull) => {
            (Kind::Unavailable, "the disk is full; nothing was lost, free some space")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            (Kind::Unavailable, "the file and its folder must be writable for this user; see `local.state`")
        }
        _ => (Kind::Unavailable, "look at the disk the file lies on; nothing was lost"),
    };
    TransportError::new(kind, format!("could not {verb} the state in `{path}`: {error}")).with_hint(hint)
}
