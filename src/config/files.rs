//! The files of a configuration: one main file, and tenants in `tenants.d/*.toml` beside it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    Config, Invalid, LocalSubmission, Problem,
    access::{self, Owners},
    reader::{Findings, Source, TableReader},
    tenant_table::Tenants,
};

/// A file as it was read. The text may hold secrets, and is wiped.
pub(super) struct ConfigFile {
    path: PathBuf,
    text: Zeroizing<String>,
    world_readable: bool,
}

impl ConfigFile {
    pub(super) fn of_text(text: &str, path: &Path) -> Self {
        Self { path: path.to_owned(), text: Zeroizing::new(text.to_owned()), world_readable: false }
    }

    /// Refuses a file that others can write to.
    pub(super) fn read(path: PathBuf, owners: Owners) -> Result<Self, Problem> {
        access::check(&path, owners).map_err(|exposed| Problem::of_file(&path, exposed.to_string()))?;
        let read = || {
            let mode = fs::metadata(&path)?.permissions().mode();
            Ok((fs::read_to_string(&path)?, mode & 0o004 != 0))
        };
        match read() {
            Ok((text, world_readable)) => Ok(Self { text: Zeroizing::new(text), path, world_readable }),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::of_file(path, format!("cannot be read: {error}"))
}

/// The main file and those beside it.
pub(super) struct Files {
    pub(super) main: Result<ConfigFile, Problem>,
    pub(super) beside: Beside,
}

/// The files of tenants.d, as far as they can be read.
#[derive(Default)]
pub(super) struct Beside {
    /// By name.
    files: Vec<ConfigFile>,
    /// One for each file that cannot be read.
    unread: Vec<Problem>,
    /// Why nobody knows what the folder holds.
    folder: Option<Problem>,
}

impl Files {
    pub(super) fn of_text(text: &str, main: &Path) -> Self {
        Self { main: Ok(ConfigFile::of_text(text, main)), beside: Beside::default() }
    }

    pub(super) fn read(main: &Path) -> Self {
        let beside = Beside::read(main, Owners::RootAndSelf);
        Self { main: ConfigFile::read(main.to_owned(), Owners::RootAndSelf), beside }
    }
}

impl Beside {
    /// Reads the files beside `main`.
    pub(super) fn read(main: &Path, owners: Owners) -> Self {
        let folder = main.parent().unwrap_or(Path::new("")).join("tenants.d");
        let mut beside = Self::default();
        // Anybody who can add a file can add a tenant. Each file is checked by itself, but one that is
        // removed is missing without a word.
        if let Err(exposed) = access::check(&folder, owners) {
            beside.folder = Some(Problem::of_file(&folder, exposed.to_string()));
            return beside;
        }
        let paths = tenant_files(&folder).unwrap_or_else(|error| {
            beside.folder = Some(unreadable(&folder, &error));
            Vec::new()
        });
        for path in paths {
            match ConfigFile::read(path, owners) {
                Ok(file) => beside.files.push(file),
                Err(problem) => beside.unread.push(problem),
            }
        }
        beside
    }

    /// Why some of it could not be read.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.folder.iter().chain(&self.unread)
    }
}

fn tenant_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    // Editors leave .#contoso.toml and the like behind.
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml") && !hidden(path));
    paths.sort();
    Ok(paths)
}

/// Reads one table out of the main file, by its name. Mistakes elsewhere are ignored.
pub(super) fn read_table<T>(
    file: &ConfigFile,
    findings: &Findings,
    name: &'static str,
    read: impl FnOnce(&mut TableReader<'_>) -> Option<T>,
) -> Option<T> {
    read_some(file, findings, &[name], |root| root.table(name, read))
}

/// Reads part of the main file. Mistakes outside `keys` and what is below them are ignored.
pub(super) fn read_some<T>(
    file: &ConfigFile,
    findings: &Findings,
    keys: &[&str],
    read: impl FnOnce(&mut TableReader<'_>) -> Option<T>,
) -> Option<T> {
    let base = file.path.parent().unwrap_or(Path::new(""));
    let source = Source::new(&file.path, &file.text, base, file.world_readable, findings);
    let value = source.parse()?;
    let found = TableReader::root(&source, &value, read);
    let is_in = |key: &str, part: &str| {
        key.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let concerns = |key: &str| key.is_empty() || keys.iter().any(|part| is_in(key, part));
    findings.errors.borrow_mut().retain(|problem| concerns(&problem.key));
    found
}

/// Reads what [`LocalSubmission`] needs. Mistakes elsewhere are ignored, and those of tenants are in
/// `unread`.
pub(super) fn read_local_submission(
    main: &ConfigFile,
    beside: &Beside,
    findings: &Findings,
) -> Option<LocalSubmission> {
    let base = main.path.parent().unwrap_or(Path::new(""));
    let source = Source::new(&main.path, &main.text, base, main.world_readable, findings);
    let value = source.parse()?;
    let mut unread: Vec<_> = beside.problems().cloned().collect();
    let mut senders = BTreeMap::new();
    let mut read_tenants = |root: &mut TableReader<'_>| {
        let (found, problems) = findings.apart(|| LocalSubmission::read_tenants(root));
        senders.extend(found);
        unread.extend(problems.into_iter().filter(|problem| LocalSubmission::concerns_tenants(&problem.key)));
    };
    let found = TableReader::root(&source, &value, |root| {
        read_tenants(root);
        LocalSubmission::read(root)
    });
    let mut not_toml = Vec::new();
    for file in &beside.files {
        let source = Source::new(&file.path, &file.text, base, file.world_readable, findings);
        let ((), problems) = findings.apart(|| {
            if let Some(value) = source.parse() {
                TableReader::root(&source, &value, &mut read_tenants);
            }
        });
        not_toml.extend(problems.into_iter().filter(|problem| problem.key.is_empty()));
    }
    unread.extend(not_toml);
    findings.errors.borrow_mut().retain(|problem| LocalSubmission::concerns(&problem.key));
    found.map(|found| LocalSubmission { senders, unread, ..found })
}

/// Reads a configuration out of `files`. Mistakes that are a tenant's go to `invalid`, the others to
/// `findings`.
pub(super) fn read_config(files: &Files, findings: &Findings, invalid: &mut Invalid) -> Option<Config> {
    let Files { main, beside } = files;
    let note = |problem: &Problem| findings.errors.borrow_mut().push(problem.clone());
    for problem in &beside.unread {
        invalid.files.insert(problem.file.clone(), vec![problem.clone()]);
    }
    beside.folder.iter().for_each(note);
    let main = main.as_ref().map_err(note).ok()?;
    let base = main.path.parent().unwrap_or(Path::new(""));
    let main_source = Source::new(&main.path, &main.text, base, main.world_readable, findings);
    // Without the main file nothing sure can be said about the tenants.
    let value = main_source.parse()?;
    let mut tenants = Tenants::new(invalid);
    let (config, around) = TableReader::root(&main_source, &value, |root| {
        let (config, around) = Config::read_all_but_tenants(root);
        root.table("tenants", |table| tenants.read(table, &around));
        (config, around)
    });
    for file in &beside.files {
        let source = Source::new(&file.path, &file.text, base, file.world_readable, findings);
        let (named, problems) = findings.apart(|| {
            let value = source.parse()?;
            TableReader::root(&source, &value, |root| {
                root.table("tenants", |table| tenants.read(table, &around))
            })
        });
        tenants.blame_file(&file.path.display().to_string(), &named.unwrap_or_default(), problems);
    }
    if tenants.is_empty() && beside.unread.is_empty() {
        main_source.warn("there is no tenant, so no mail will be accepted: add a table [tenants.NAME]");
    }
    let warnings = findings.warnings.take();
    let Tenants { valid: tenants, files, unreadable, .. } = tenants;
    config.map(|config| Config { file: main.path.clone(), tenants, files, unreadable, warnings, ..config })
}
