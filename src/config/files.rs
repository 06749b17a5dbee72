//! The files of a configuration: one main file, and tenants in `tenants.d/*.toml` beside it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use toml_span::Value;
use zeroize::Zeroizing;

use super::{
    Config, ConfigErrors, LocalSubmission, Problem,
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

/// Reads the main file and those beside it, main file first, then by name.
pub(super) fn read_files(main: &Path) -> Result<Vec<ConfigFile>, ConfigErrors> {
    let (beside, mut problems) = read_beside(main, Owners::RootAndSelf);
    let mut files = Vec::new();
    match ConfigFile::read(main.to_owned(), Owners::RootAndSelf) {
        Ok(file) => files.push(file),
        Err(problem) => problems.insert(0, problem),
    }
    files.extend(beside);
    if problems.is_empty() { Ok(files) } else { Err(ConfigErrors::new(problems)) }
}

/// Reads the files beside the main one, as far as they can be read; and says why some could not be.
pub(super) fn read_beside(main: &Path, owners: Owners) -> (Vec<ConfigFile>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut files = Vec::new();
    let folder = main.parent().unwrap_or(Path::new("")).join("tenants.d");
    // Anybody who can add a file can add a tenant. Each file is checked by itself, but one that is removed is
    // missing without a word.
    if let Err(exposed) = access::check(&folder, owners) {
        problems.push(Problem::of_file(&folder, exposed.to_string()));
        return (files, problems);
    }
    let paths = tenant_files(&folder).unwrap_or_else(|error| {
        problems.push(unreadable(&folder, &error));
        Vec::new()
    });
    for path in paths {
        match ConfigFile::read(path, owners) {
            Ok(file) => files.push(file),
            Err(problem) => problems.push(problem),
        }
    }
    (files, problems)
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

/// Reads what [`LocalSubmission`] needs. Mistakes elsewhere are ignored.
pub(super) fn read_local_submission(
    main: &ConfigFile,
    beside: &[ConfigFile],
    findings: &Findings,
) -> Option<LocalSubmission> {
    let base = main.path.parent().unwrap_or(Path::new(""));
    let source = Source::new(&main.path, &main.text, base, main.world_readable, findings);
    let value = source.parse()?;
    let found = TableReader::root(&source, &value, |root| {
        let tenants = LocalSubmission::read_tenants(root);
        LocalSubmission::read(root).map(|found| LocalSubmission { senders: tenants, ..found })
    });
    let mut tenants = BTreeMap::new();
    for file in beside {
        let source = Source::new(&file.path, &file.text, base, file.world_readable, findings);
        let Some(value) = source.parse() else { continue };
        tenants.extend(TableReader::root(&source, &value, LocalSubmission::read_tenants));
    }
    findings.errors.borrow_mut().retain(|problem| LocalSubmission::concerns(&problem.key));
    found.map(|mut found| {
        found.senders.extend(tenants);
        found
    })
}

/// Reads a configuration out of `files`; the first is the main one, the others hold tenants.
pub(super) fn read_config(files: &[ConfigFile], findings: &Findings) -> Option<Config> {
    let main_path = &files.first()?.path;
    let base = main_path.parent().unwrap_or(Path::new(""));
    let sources: Vec<Source<'_>> = files
        .iter()
        .map(|file| Source::new(&file.path, &file.text, base, file.world_readable, findings))
        .collect();
    let values: Vec<Option<Value<'_>>> = sources.iter().map(Source::parse).collect();

    let mut parsed = sources.iter().zip(&values);
    let (main, value) = parsed.next()?;
    // Without the main file nothing sure can be said about the tenants.
    let value = value.as_ref()?;
    let mut tenants = Tenants::default();
    let (config, around) = TableReader::root(main, value, |root| {
        let (config, around) = Config::read_all_but_tenants(root);
        root.table("tenants", |table| tenants.read(table, &around));
        (config, around)
    });
    for (source, value) in parsed {
        let Some(value) = value else { continue };
        TableReader::root(source, value, |root| root.table("tenants", |table| tenants.read(table, &around)));
    }
    if tenants.is_empty() {
        main.warn("there is no tenant, so no mail will be accepted: add a table [tenants.NAME]");
    }
    let warnings = findings.warnings.take();
    config.map(|config| Config { file: main_path.clone(), tenants: tenants.valid, warnings, ..config })
}
