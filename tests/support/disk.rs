//! A disk that can really be full: a small file system in memory, in a mount namespace of its own.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Dropped, it is gone with all that is on it.
pub(crate) struct SmallDisk {
    /// Holds the namespace until its input ends, with this process at the latest.
    holder: Child,
    folder: PathBuf,
}

impl SmallDisk {
    /// A disk of so many megabytes over a folder, which only [`SmallDisk::within`] sees.
    pub(crate) fn new(folder: &Path, megabytes: u32) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mut holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c"])
            .arg("mount -t tmpfs -o size=$1m tmpfs \"$0\" && echo mounted && exec cat")
            .arg(folder)
            .arg(megabytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` of util-linux is there");
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(
            said, "mounted\n",
            "a user may not mount a file system in a namespace of their own here; where AppArmor forbids it: \
             `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or run the tests as root"
        );
        Self { holder, folder: folder.to_owned() }
    }

    /// The command and arguments that run something where the disk is.
    pub(crate) fn within(&self) -> Vec<String> {
        let target = self.holder.id().to_string();
        ["nsenter", "--preserve-credentials", "--user", "--mount", "--target", &target]
            .map(str::to_owned)
            .to_vec()
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        // Ever less at once, so that no rest is left.
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![0; size];
            while filler.write(&block).is_ok_and(|written| written == size) {}
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub(crate) fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        let inside = self.folder.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside).join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().unwrap();
    }
}
