//! Files that a crash must not tear and a neighbour must not read.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// The mode of a file that only its owner may read: keys, tokens, state.
pub const PRIVATE: u32 = 0o600;
/// The mode of a file that anybody may read: trust bundles.
pub const PUBLIC: u32 = 0o644;

/// The largest file that is read into memory whole.
const MAX_BYTES: u64 = 1 << 20;

/// What went wrong with which file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused an operation.
    #[error("cannot {action} {path}", path = .path.display())]
    Io {
        /// What was tried: read, write, create.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Others than the owner can read or change a secret.
    #[error("{path} holds a secret, but its mode is {mode:04o}; run: chmod 600 {path}", path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory, a device or a pipe where a file belongs, or a file over 1 MiB.
    #[error("{path} is not a regular file of at most 1 MiB", path = .path.display())]
    Unexpected {
        /// The path.
        path: PathBuf,
    },
}

impl FileError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// Whether the file is simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Replaces a file as one step: after a crash at any moment it holds either the old bytes or the new ones, whole,
/// and once this returns the new ones survive a power failure.
///
/// `mode` is set exactly, whatever the umask, before the first byte is written. The bytes are written beside the
/// file, synced and renamed over it, and then the directory is synced. Blocks on the disk.
///
/// # Errors
/// Whatever the system refuses; the old file is then still in place.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError::io("write", path, source);
    let temporary = temporary_beside(path).map_err(failed)?;
    let written = write_new(&temporary, bytes, mode).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(source) = written {
        // The name is ours alone; what is left of a failed write helps nobody.
        let _ = std::fs::remove_file(&temporary);
        return Err(failed(source));
    }
    File::open(directory_of(path)).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // create_new follows no symbolic link and opens no file that somebody else has put there.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A new name in the same directory, hidden, so that two writers never share one.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("no randomness for a file name"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{:016x}.tmp", u64::from_ne_bytes(random)));
    Ok(path.with_file_name(hidden))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes what a crash in the middle of [`write_atomic`] left beside `path`. Call it at start, while no other
/// writer can be at work.
///
/// # Errors
/// The directory cannot be read, or a leftover cannot be removed.
pub fn remove_leftovers(path: &Path) -> Result<(), FileError> {
    let directory = directory_of(path);
    let failed = |source| FileError::io("clean up beside", path, source);
    let Some(name) = path.file_name() else { return Ok(()) };
    let prefix = [b".", name.as_bytes(), b"."].concat();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let found = entry.file_name();
        let found = found.as_bytes();
        if found.len() == prefix.len() + "0123456789abcdef.tmp".len()
            && found.starts_with(&prefix)
            && found.ends_with(b".tmp")
        {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Makes a directory, and those above it, for its owner alone (0700). One that exists stays as it is.
///
/// # Errors
/// Whatever the system refuses.
pub fn create_private_directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FileError::io("create directory", path, source))
}

/// Reads a file that holds a secret.
///
/// # Errors
/// The file is missing, is over 1 MiB or no regular file, or gives its group or others any permission.
pub fn read_private(path: &Path) -> Result<Vec<u8>, FileError> {
    let (bytes, mode) = read_with_mode(path)?;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode });
    }
    Ok(bytes)
}

/// Reads a file that holds no secret.
///
/// # Errors
/// The file is missing, is over 1 MiB or no regular file.
pub fn read_public(path: &Path) -> Result<Vec<u8>, FileError> {
    read_with_mode(path).map(|(bytes, _)| bytes)
}

/// The mode is that of the file that was opened, not of what the path names a moment later.
fn read_with_mode(path: &Path) -> Result<(Vec<u8>, u32), FileError> {
    let failed = |source| FileError::io("read", path, source);
    let unexpected = || FileError::Unexpected { path: path.to_owned() };
    // Opening a pipe for reading would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(unexpected());
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mut bytes = Vec::new();
    let length = (&file).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if !metadata.is_file() || length as u64 > MAX_BYTES {
        return Err(unexpected());
    }
    Ok((bytes, metadata.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn replaces_whole_files_with_the_exact_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        write_atomic(&path, b"old", 0o666).unwrap();
        assert_eq!(mode_of(&path), 0o666, "the umask does not change the mode that was asked for");
        write_atomic(&path, b"new", PRIVATE).unwrap();
        assert_eq!(mode_of(&path), PRIVATE);
        assert_eq!(read_private(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), b"").unwrap();
        assert!(matches!(write_atomic(&path, b"new", PRIVATE), Err(FileError::Io { action: "write", .. })));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write_atomic(Path::new("/"), b"", PRIVATE).is_err());
    }

    #[test]
    fn leftovers_of_a_crash_are_removed_and_neighbours_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        for name in ["state", ".state.0123456789abcdef.tmp", ".state.tmp", ".other.0123456789abcdef.tmp"] {
            std::fs::write(directory.path().join(name), b"").unwrap();
        }
        remove_leftovers(&path).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".other.0123456789abcdef.tmp", ".state.tmp", "state"]);
    }

    #[test]
    fn secrets_that_others_can_read_are_refused_with_the_cure() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for mode in [0o640, 0o604, 0o620, 0o644] {
            write_atomic(&path, b"x", mode).unwrap();
            let error = read_private(&path).unwrap_err();
            assert!(matches!(error, FileError::Exposed { .. }), "{mode:o}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
            assert!(read_public(&path).is_ok());
        }
    }

    #[test]
    fn directories_and_huge_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read_private(directory.path()), Err(FileError::Unexpected { .. })));
        let path = directory.path().join("huge");
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(matches!(read_public(&path), Err(FileError::Unexpected { .. })));
        assert!(read_public(&directory.path().join("none")).unwrap_err().is_missing());
    }
}
