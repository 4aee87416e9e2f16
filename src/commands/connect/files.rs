//! Files written whole or not at all: a configuration over its old self, a secret where nothing is.
//!
//! Everything goes to a temporary file beside its place first, made with the mode it will keep, is
//! synced, and takes its place in one step. What it says is not looked at here.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret as _, SecretString};

/// A file that could not be written, and what to do.
#[derive(Debug)]
pub(super) struct Unwritten {
    message: String,
    /// What to do about it.
    pub(super) hint: Option<&'static str>,
}

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Unwritten {}

const WRITABLE: &str = "the folder must exist and this user must be allowed to write to it; or name another \
                        file, with `--config` or, for a secret, with `--secret-file`";

/// That a file can be written where a path says, before anybody is asked anything.
///
/// # Errors
/// When the folder is missing or takes no files, or another user's file would be replaced.
pub(super) fn probe(path: &Path) -> Result<(), Unwritten> {
    let place = followed(path)?;
    let temporary = Temporary::create(&place, PUBLIC).map_err(|error| failed(path, &error))?;
    keep_owner(&place, &temporary.file).map_err(|error| failed(path, &error))?;
    Ok(())
}

/// That nothing is where a secret is to be put, and that it can be put there.
///
/// # Errors
/// When there is something, or the folder is missing or takes no files.
pub(super) fn probe_secret(path: &Path) -> Result<(), Unwritten> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(Unwritten {
            message: format!(
                "the file `{}` exists already, and no secret is written over it",
                path.display()
            ),
            hint: Some(
                "if it holds the secret, name it with `--secret-access-key-file` (a password with \
                 `--output-password-file`); else remove it, or choose another with `--secret-file`",
            ),
        });
    }
    Temporary::create(path, SECRET).map(drop).map_err(|error| failed(path, &error))
}

/// Puts a secret into a file only its user can read, and its path in place of nothing.
///
/// # Errors
/// When there is a file by now, or it cannot be written.
pub(super) fn write_secret(path: &Path, secret: &SecretString) -> Result<(), Unwritten> {
    let write = || {
        let mut temporary = Temporary::create(path, SECRET)?;
        temporary.fill(format!("{}\n", secret.expose_secret()).as_bytes())?;
        temporary.become_new(path)
    };
    write().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Unwritten {
            message: format!("could not write `{}`: there is such a file by now", path.display()),
            hint: Some("nothing was changed; choose another with `--secret-file`"),
        },
        _ => failed(path, &error),
    })
}

/// Puts a configuration's text in place of `before`, `None` for no file. Mode, owner and a link that
/// leads to it are kept.
///
/// # Errors
/// When somebody else changed it meanwhile, or it cannot be written.
pub(super) fn write(path: &Path, before: Option<&str>, text: &str) -> Result<(), Unwritten> {
    let place = followed(path)?;
    let changed = || Unwritten {
        message: format!("somebody else changed `{}` meanwhile", path.display()),
        hint: Some("nothing was written; begin again"),
    };
    let write = || {
        // What is replaced may hold secrets: its mode comes last, not first.
        let mut temporary = Temporary::create(&place, if before.is_some() { SECRET } else { PUBLIC })?;
        temporary.fill(text.as_bytes())?;
        let Some(before) = before else { return temporary.become_new(&place) };
        keep_owner(&place, &temporary.file)?;
        temporary.file.set_permissions(fs::metadata(&place)?.permissions())?;
        // As late as can be: an editor may have saved in between.
        if fs::read_to_string(&place)? != before {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        temporary.replace(&place)
    };
    write().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound => changed(),
        _ => failed(path, &error),
    })
}

/// Where a path leads: the file behind a link is replaced, not the link.
fn followed(path: &Path) -> Result<PathBuf, Unwritten> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => fs::canonicalize(path).map_err(|error| failed(path, &error)),
        _ => Ok(path.to_owned()),
    }
}

fn failed(path: &Path, error: &io::Error) -> Unwritten {
    if error.kind() == io::ErrorKind::Other {
        // One of ours, a sentence by itself.
        let hint = Some("run this as the user the file belongs to");
        return Unwritten { message: format!("could not write `{}`: {error}", path.display()), hint };
    }
    Unwritten { message: format!("could not write `{}`: {error}", path.display()), hint: Some(WRITABLE) }
}

/// For everybody whom the process's mask lets.
const PUBLIC: u32 = 0o666;
/// For its user alone, from the first moment.
const SECRET: u32 = 0o600;

/// A file that is gone again unless it takes its place.
struct Temporary {
    path: Option<PathBuf>,
    file: File,
}

impl Temporary {
    fn create(place: &Path, mode: u32) -> io::Result<Self> {
        let name = place.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy();
        let path = place.with_file_name(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        with_mode(&mut options, mode);
        Ok(Self { file: options.open(&path)?, path: Some(path) })
    }

    fn fill(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.sync_all()
    }

    /// Over what is there.
    fn replace(mut self, place: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            fs::rename(path, place)?;
        }
        self.path = None;
        sync_folder(place)
    }

    /// Where nothing is: a link is made or refused in one step, unlike a look and a rename.
    fn become_new(self, place: &Path) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        match fs::hard_link(path, place) {
            Ok(()) => sync_folder(place),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // Not every file system has links.
            Err(_) if fs::symlink_metadata(place).is_err() => self.replace(place),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Nothing can be done about one that stays, and nothing is lost by it.
            fs::remove_file(path).unwrap_or_default();
        }
    }
}

#[cfg(unix)]
fn with_mode(options: &mut OpenOptions, mode: u32) {
    std::os::unix::fs::OpenOptionsExt::mode(options, mode);
}

#[cfg(not(unix))]
fn with_mode(_: &mut OpenOptions, _: u32) {}

/// A file that replaces another user's stays that user's, where this one may say so.
#[cfg(unix)]
fn keep_owner(place: &Path, file: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};

    let Ok(old) = fs::metadata(place) else { return Ok(()) };
    let new = file.metadata()?;
    if (old.uid(), old.gid()) == (new.uid(), new.gid()) {
        return Ok(());
    }
    fchown(file, Some(old.uid()), Some(old.gid()))
        .map_err(|_| io::Error::other("it belongs to another user or group, and would not any more"))
}

#[cfg(not(unix))]
fn keep_owner(_: &Path, _: &File) -> io::Result<()> {
    Ok(())
}

/// That the new name survives a power failure, where folders can be synced.
fn sync_folder(place: &Path) -> io::Result<()> {
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_is_its_users_alone_and_never_replaces_anything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        probe_secret(&path).unwrap();
        assert!(names(folder.path()).is_empty(), "a look leaves nothing");
        write_secret(&path, &"s3cret".into()).unwrap();
        assert_eq!((mode(&path), fs::read_to_string(&path).unwrap().as_str()), (0o600, "s3cret\n"));
        assert!(probe_secret(&path).unwrap_err().to_string().contains("exists already"));
        let error = write_secret(&path, &"other".into()).unwrap_err();
        assert!(error.to_string().contains("by now"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "s3cret\n");
        assert_eq!(names(folder.path()), ["secret"]);
    }

    #[test]
    fn a_configuration_keeps_its_mode_and_the_link_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.toml"), folder.path().join("link.toml"));
        write(&real, None, "a = 1\n").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real.toml", &link).unwrap();
        probe(&link).unwrap();
        write(&link, Some("a = 1\n"), "a = 2\n").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!((mode(&real), fs::read_to_string(&real).unwrap().as_str()), (0o640, "a = 2\n"));
        assert_eq!(names(folder.path()), ["link.toml", "real.toml"]);
    }

    #[test]
    fn what_somebody_else_changed_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("billing.toml");
        fs::write(&path, "theirs\n").unwrap();
        for before in [None, Some("ours\n")] {
            let error = write(&path, before, "new\n").unwrap_err();
            assert!(error.to_string().contains("somebody else changed"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "theirs\n");
        }
        assert_eq!(names(folder.path()), ["billing.toml"]);
    }

    #[test]
    fn a_place_that_takes_no_files_is_told_before() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing/billing.toml");
        for error in [probe(&missing).unwrap_err(), probe_secret(&missing).unwrap_err()] {
            assert!(error.to_string().contains("could not write"), "{error}");
            assert_eq!(error.hint, Some(WRITABLE));
        }
        assert!(probe(Path::new("/")).is_err());
        symlink("nowhere", folder.path().join("link.toml")).unwrap();
        assert!(probe(&folder.path().join("link.toml")).is_err());
    }
}
