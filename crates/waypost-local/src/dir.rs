//! Directory of the registry: location, required ownership, and file names.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use waypost_core::record::{Key, NodeId, RecordLimits, ServiceName};
use waypost_core::registry::{Error, Result};

use crate::{NAME, unavailable};

/// Kind of a file, by the suffix of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    Record,
    Lock,
    /// Tombstone: a record whose owner deregisters.
    Left,
    /// Record before its rename.
    Draft,
}

impl File {
    const ALL: [Self; 4] = [Self::Record, Self::Lock, Self::Left, Self::Draft];

    fn ending(self) -> &'static str {
        match self {
            Self::Record => ".json",
            Self::Lock => ".lock",
            Self::Left => ".left",
            Self::Draft => ".tmp",
        }
    }

    /// Returns the id and the kind of a registry file; none for any other.
    pub(crate) fn parse(name: &OsStr) -> Option<(&str, Self)> {
        let name = name.to_str()?;
        let (id, file) = Self::ALL
            .into_iter()
            .find_map(|file| Some((name.strip_suffix(file.ending())?, file)))?;
        id.parse::<NodeId>().ok()?;
        Some((id, file))
    }
}

/// Directory of a registry. Clones refer to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Dir {
    root: Arc<Path>,
    /// True if the default location was chosen. Other users may write there, so the directory must
    /// belong to the current user.
    is_default: bool,
    limits: RecordLimits,
}

impl Dir {
    /// Opens a directory, which need not exist: the first registration creates it.
    ///
    /// # Errors
    /// [`Error::Denied`] or [`Error::Invalid`] if the directory exists and may not be used; see
    /// [`check`](Self::check).
    pub(crate) fn open(dir: Option<PathBuf>, limits: RecordLimits) -> Result<Self> {
        let dir = Self {
            is_default: dir.is_none(),
            root: dir.unwrap_or_else(default_dir).into(),
            limits,
        };
        dir.check()?;
        Ok(dir)
    }

    /// Returns the limits of a record.
    pub(crate) fn limits(&self) -> RecordLimits {
        self.limits
    }

    /// Checks the directory, if it exists: a default one must belong to the current user alone, a
    /// given one must be a directory.
    pub(crate) fn check(&self) -> Result<()> {
        match std::fs::symlink_metadata(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(unavailable(
                format!("reading {}", self.root.display()),
                error,
            )),
            Ok(_) if self.is_default => check_ours(&self.root),
            Ok(_) => check_directory(&self.root),
        }
    }

    /// Creates the directory, or checks the existing one.
    pub(crate) fn make(&self) -> Result<()> {
        let failed = |error| {
            unavailable(
                format!("making the directory {}", self.root.display()),
                error,
            )
        };
        make_dirs(&self.root, !self.is_default).map_err(failed)?;
        self.check()
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn service(&self, service: &str) -> PathBuf {
        self.root.join(service)
    }

    pub(crate) fn file(&self, key: &Key, file: File) -> PathBuf {
        self.service(&key.service)
            .join(format!("{}{}", key.id, file.ending()))
    }

    /// Creates the directory of one service, accessible to its owner only.
    pub(crate) fn make_service(&self, service: &str) -> io::Result<()> {
        make_dirs(&self.service(service), true)
    }

    /// Removes the directory of one service if it is empty.
    pub(crate) fn tidy(&self, service: &str) {
        drop(std::fs::remove_dir(self.service(service)));
    }

    /// Returns the services that have a directory.
    pub(crate) fn services(&self) -> io::Result<Vec<String>> {
        let names = names(&self.root)?;
        Ok(names
            .into_iter()
            .filter(|name| name.parse::<ServiceName>().is_ok() && self.service(name).is_dir())
            .collect())
    }

    /// Returns the ids of one service that have a file of any kind.
    pub(crate) fn ids(&self, service: &str) -> io::Result<Vec<String>> {
        let names = names(&self.service(service))?;
        let mut ids: Vec<_> = names
            .iter()
            .filter_map(|name| Some(File::parse(name.as_ref())?.0.to_owned()))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

/// Returns the names in a directory that are valid text; none if it does not exist, or is no
/// directory.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    entries
        .filter_map(|entry| {
            entry
                .map(|entry| entry.file_name().into_string().ok())
                .transpose()
        })
        .collect()
}

fn make_dirs(dir: &Path, recursive: bool) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(recursive);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Returns the default directory. No other function of this crate reads the environment.
fn default_dir() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute() && dir.is_dir());
    match runtime {
        Some(dir) => dir.join("waypost"),
        None => std::env::temp_dir().join(format!("waypost-{}", user())),
    }
}

#[cfg(unix)]
fn user() -> u32 {
    rustix::process::getuid().as_raw()
}

#[cfg(not(unix))]
fn user() -> &'static str {
    "user"
}

/// Checks the ownership. Where other users may write, one of them may have created the directory
/// first, or a link at its path.
#[cfg(unix)]
fn check_ours(dir: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(dir)
        .map_err(|error| unavailable(format!("reading {}", dir.display()), error))?;
    let why = match () {
        () if metadata.is_symlink() => "is a symbolic link",
        () if !metadata.is_dir() => "is not a directory",
        () if metadata.uid() != user() => "belongs to another user",
        () if metadata.mode() & 0o077 != 0 => "is open to other users",
        () => return Ok(()),
    };
    let what = format!(
        "the directory {} {why}: remove it, or choose another by local:///path",
        dir.display()
    );
    Err(Error::Denied {
        registry: NAME,
        what,
        source: None,
    })
}

#[cfg(not(unix))]
fn check_ours(dir: &Path) -> Result<()> {
    check_directory(dir)
}

fn check_directory(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    Err(Error::invalid(
        format!("registry directory {}", dir.display()),
        "is not a directory: choose another",
    ))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_known_by_its_ending() {
        let parse = |name: &'static str| File::parse(OsStr::new(name));
        assert_eq!(parse("a-1.json"), Some(("a-1", File::Record)));
        assert_eq!(parse("a.lock.json"), Some(("a.lock", File::Record)));
        assert_eq!(parse("a.json.lock"), Some(("a.json", File::Lock)));
        for other in ["a", ".json", "..json", ".a.json", "a b.json", "a.txt"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_default_directory_must_be_ours_alone() {
        let parent = tempfile::tempdir().unwrap();
        let default = |name: &str| Dir {
            root: parent.path().join(name).into(),
            limits: RecordLimits::default(),
            is_default: true,
        };
        default("made").make().unwrap();
        default("made").make().unwrap();
        let mode = std::fs::metadata(parent.path().join("made"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);

        std::fs::set_permissions(parent.path().join("made"), PermissionsExt::from_mode(0o750))
            .unwrap();
        symlink(parent.path(), parent.path().join("link")).unwrap();
        std::fs::write(parent.path().join("file"), "").unwrap();
        for (name, why) in [
            ("made", "is open to other users"),
            ("link", "symbolic link"),
            ("file", "is not a directory"),
        ] {
            let error = default(name).make().unwrap_err();
            assert!(
                matches!(&error, Error::Denied { what, .. } if what.contains(why)),
                "{error}"
            );
        }
        assert!(default("a/b").make().is_err(), "made more than one level");
    }

    #[test]
    fn a_given_directory_is_made_whole() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::write(parent.path().join("file"), "").unwrap();
        assert!(matches!(
            Dir::open(Some(parent.path().join("file")), RecordLimits::default()),
            Err(Error::Invalid { .. })
        ));
        let dir = Dir::open(Some(parent.path().join("a/b")), RecordLimits::default()).unwrap();
        assert!(!parent.path().join("a").exists(), "made by who only reads");
        assert_eq!(dir.services().unwrap(), [""; 0]);
        dir.make().unwrap();
        dir.make_service("greeter").unwrap();
        std::fs::create_dir(dir.root().join(".hidden")).unwrap();
        std::fs::write(dir.root().join("file"), "").unwrap();
        assert_eq!(dir.services().unwrap(), ["greeter"]);
        dir.tidy("greeter");
        assert_eq!(dir.services().unwrap(), [""; 0]);
    }
}
