//! Reads TOML tables key by key, and keeps count of what was asked for.
//!
//! A [`TableReader`] returns the values of one table, parsed by the function that the caller names. Nothing
//! stops at a mistake: a value that cannot be read is noted in [`Findings`] with file, line and key, and the
//! caller continues with `None` or with the default, so that one run reports everything. A key that nobody
//! asked for is a mistake too. The code that starts the reading must look at the findings afterwards: a
//! result counts only when there are no errors.
//!
//! Every key that was ever asked for is remembered, with `NAME` in place of names that the user chooses. A
//! test compares them with the documented ones.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashSet},
    path::Path,
};

use toml_span::{
    Span, Value,
    value::{Table, ValueInner},
};

use super::{
    Problem,
    access::{self, Owners},
};

/// What came up while reading, over all files.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) errors: RefCell<Vec<Problem>>,
    pub(super) warnings: RefCell<Vec<Problem>>,
    pub(super) known_keys: RefCell<HashSet<String>>,
    /// One tenant's problem must not stop the others: see [`Item::fail_alone`].
    is_to_run: bool,
    /// How many of those there were.
    alone: Cell<usize>,
    /// The key that is noted, written again each time: there are dozens for each of thousands of tenants.
    noted: RefCell<String>,
}

/// One file.
pub(super) struct Source<'a> {
    file: &'a Path,
    text: &'a str,
    /// Where the lines begin. A large file has as many tenants as errors, so they are found once.
    line_starts: Vec<usize>,
    /// The folder that relative paths start from.
    pub(super) base: &'a Path,
    /// Every user of the machine may read the file.
    pub(super) world_readable: bool,
    findings: &'a Findings,
}

/// One table. Made by [`Item::table`] and [`TableReader::table`], which report the keys that were left.
pub(super) struct TableReader<'a> {
    source: &'a Source<'a>,
    path: KeyPath,
    table: &'a Table<'a>,
    /// `None`: the table is not in the file.
    place: Option<Span>,
    asked: Vec<&'static str>,
    names_free: bool,
}

/// One value, and where it is.
pub(super) struct Item<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) value: &'a Value<'a>,
    path: KeyPath,
    place: Span,
}

/// The way to a key: as in the file, and with `NAME` for chosen names and nothing for places in a list.
#[derive(Clone, Default)]
struct KeyPath {
    shown: String,
    known: String,
}

static EMPTY: Table<'static> = Table::new();

impl<'a> TableReader<'a> {
    /// Reads the outermost table of a file.
    pub(super) fn root<T>(
        source: &'a Source<'a>,
        value: &'a Value<'a>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        // A file is always a table.
        Self::over(source, KeyPath::default(), value.as_table().unwrap_or(&EMPTY), None, read)
    }

    fn over<T>(
        source: &'a Source<'a>,
        path: KeyPath,
        table: &'a Table<'a>,
        place: Option<Span>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let mut reader = Self { source, path, table, place, asked: Vec::new(), names_free: false };
        let result = read(&mut reader);
        reader.report_unknown();
        result
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of `key`. If it is missing, an error that shows `example`.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&Item<'a>) -> Option<T>,
    ) -> Option<T> {
        self.or_else(key, read, |table| table.fail_at(key, format!("missing: write {key} = {example}")))
    }

    /// The value of `key`; `None` if it is wrong; what `missing` returns if it is missing.
    pub(super) fn or_else<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Item<'a>) -> Option<T>,
        missing: impl FnOnce(&Self) -> Option<T>,
    ) -> Option<T> {
        match self.item(key) {
            Some(item) => read(&item),
            None => missing(self),
        }
    }

    /// The value of `key`; `None` if it is missing or wrong.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Item<'a>) -> Option<T>,
    ) -> Option<T> {
        self.item(key).and_then(|item| read(&item))
    }

    /// The value of `key`; `default` if it is missing or wrong.
    pub(super) fn or_default<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Item<'a>) -> Option<T>,
    ) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// The table `key`, read as an empty one if it is missing, so that defaults are written once.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut TableReader<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.item(key) {
            Some(item) => item.table(read),
            None => Self::over(self.source, self.path.key(key), &EMPTY, None, read),
        }
    }

    /// Notes keys that `key` would have in another form, or if it were there.
    pub(super) fn note_keys(&self, key: &str, keys: &[&str]) {
        let path = join(&self.path.known, key);
        keys.iter().for_each(|key| self.source.findings.note_key(&path, key));
    }

    /// All entries of a table whose keys are names that the user chooses.
    pub(super) fn named(&mut self) -> Vec<(&'a str, Item<'a>)> {
        self.names_free = true;
        self.source.findings.note_key(&self.path.known, "NAME");
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                let path = self.path.name(&key.name);
                (&*key.name, Item { source: self.source, value, path, place: key.span })
            })
            .collect();
        entries.sort_by_key(|(_, item)| item.place.start);
        entries
    }

    /// Notes an error about `key` of this table, which need not be in the file. `None`, for the caller to
    /// return.
    pub(super) fn fail_at<T>(&self, key: &str, message: impl Into<String>) -> Option<T> {
        let problem = self.source.problem(self.place, self.path.key(key).shown, message.into());
        self.source.findings.errors.borrow_mut().push(problem);
        None
    }

    /// The value at `key`, for a caller that reads several together.
    pub(super) fn item(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.asked.push(key);
        self.source.findings.note_key(&self.path.known, key);
        let (found, value) = self.table.get_key_value(key)?;
        let path = self.path.key(key);
        // A table's own span ends where its sub-tables begin; its name is where the user looks.
        let place = if matches!(value.as_ref(), ValueInner::Table(_)) { found.span } else { value.span };
        Some(Item { source: self.source, value, path, place })
    }

    fn report_unknown(&self) {
        if self.names_free {
            return;
        }
        for key in self.table.keys().filter(|key| !self.asked.contains(&&*key.name)) {
            let message = match nearest(&key.name, &self.asked) {
                Some(known) => format!("unknown key; did you mean {known}?"),
                None => {
                    // Some are asked for more than once.
                    let keys: BTreeSet<_> = self.asked.iter().copied().collect();
                    format!(
                        "unknown key; the keys here are {}",
                        keys.into_iter().collect::<Vec<_>>().join(", ")
                    )
                }
            };
            let problem = self.source.problem(Some(key.span), self.path.key(&key.name).shown, message);
            self.source.findings.errors.borrow_mut().push(problem);
        }
    }
}

impl<'a> Item<'a> {
    /// Notes an error about this value. `None`, for the caller to return.
    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Option<T> {
        let problem = self.source.problem(Some(self.place), self.path.shown.clone(), message.into());
        self.source.findings.errors.borrow_mut().push(problem);
        None
    }

    /// Notes a mistake if others can write to the file that the item names: its content is believed.
    pub(super) fn only_ours(&self, path: &Path) -> Option<()> {
        match access::check(path, Owners::RootAndSelf) {
            Ok(()) => Some(()),
            Err(exposed) => self.fail(exposed.to_string()),
        }
    }

    /// What `read` returns, and the mistakes that it notes about this value, which are noted nowhere else.
    pub(super) fn apart<T>(&self, read: impl FnOnce() -> T) -> (T, Vec<Problem>) {
        self.source.findings.apart(read)
    }

    /// How often [`fail_alone`](Self::fail_alone) has let something pass.
    pub(super) fn let_pass(&self) -> usize {
        self.source.findings.alone.get()
    }

    /// Something of this tenant's cannot be read now, and is read again at each use. When the relay runs,
    /// this is a warning, and the caller gets `value`: the tenant's mail waits until that is fixed. When the
    /// configuration is only checked, it is an error.
    pub(super) fn fail_alone<T>(&self, value: T, message: impl Into<String>) -> Option<T> {
        let message = message.into();
        if !self.source.findings.is_to_run {
            return self.fail(message);
        }
        self.source.findings.alone.set(self.source.findings.alone.get() + 1);
        self.warn(format!("{message}; mail of this tenant waits until that is corrected"));
        Some(value)
    }

    pub(super) fn warn(&self, message: impl Into<String>) {
        let problem = self.source.problem(Some(self.place), self.path.shown.clone(), message.into());
        self.source.findings.warnings.borrow_mut().push(problem);
    }

    /// Notes keys that another form of this value would have.
    pub(super) fn note_keys(&self, keys: &[&str]) {
        keys.iter().for_each(|key| self.source.findings.note_key(&self.path.known, key));
    }

    /// The file that the value is in, as in [`Problem::file`].
    pub(super) fn file(&self) -> String {
        self.source.file.display().to_string()
    }

    /// The line that the value is in, from 1.
    pub(super) fn line(&self) -> usize {
        self.source.line_and_column(self.place).0
    }

    /// Fails for a value of the wrong type. Does not show the value: it may be a secret.
    pub(super) fn wrong_type<T>(&self, wanted: &str) -> Option<T> {
        let found = match self.value.as_ref() {
            ValueInner::String(_) => "text",
            ValueInner::Integer(_) => "a number",
            ValueInner::Float(_) => "a number with a fraction",
            ValueInner::Boolean(_) => "true or false",
            ValueInner::Array(_) => "a list",
            ValueInner::Table(_) => "a table",
        };
        self.fail(format!("is {found}: write {wanted}"))
    }

    pub(super) fn table<T>(&self, read: impl FnOnce(&mut TableReader<'a>) -> Option<T>) -> Option<T> {
        match self.value.as_table() {
            Some(table) => TableReader::over(self.source, self.path.clone(), table, Some(self.place), read),
            None => self.wrong_type("a table"),
        }
    }

    /// The elements of a list.
    pub(super) fn elements(&self, example: &str) -> Option<Vec<Item<'a>>> {
        let Some(array) = self.value.as_array() else {
            return self.wrong_type(&format!("a list such as {example}"));
        };
        let element = |(i, value): (usize, &'a Value<'a>)| Item {
            source: self.source,
            value,
            path: self.path.index(i),
            place: value.span,
        };
        Some(array.iter().enumerate().map(element).collect())
    }
}

impl<'a> Source<'a> {
    pub(super) fn new(
        file: &'a Path,
        text: &'a str,
        base: &'a Path,
        world_readable: bool,
        findings: &'a Findings,
    ) -> Self {
        let line_starts =
            std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1));
        Self { file, text, line_starts: line_starts.collect(), base, world_readable, findings }
    }

    /// The file's content as TOML. `None`: it is not TOML, which is noted.
    pub(super) fn parse(&self) -> Option<Value<'a>> {
        toml_span::parse(self.text).map_err(|error| self.fail_syntax(&error)).ok()
    }

    fn problem(&self, place: Option<Span>, key: String, message: String) -> Problem {
        let (line, column) = place.map(|span| self.line_and_column(span)).unzip();
        Problem { line, column, key, ..Problem::of_file(self.file, message) }
    }

    /// Notes a warning about the whole.
    pub(super) fn warn(&self, message: &str) {
        self.findings.warnings.borrow_mut().push(self.problem(None, String::new(), message.to_owned()));
    }

    fn fail_syntax(&self, error: &toml_span::Error) {
        // The parser's messages may hold a control character of the file.
        let message = format!("not TOML: {error}").replace(char::is_control, "?");
        let problem = self.problem(Some(error.span), String::new(), message);
        self.findings.errors.borrow_mut().push(problem);
    }

    fn line_and_column(&self, span: Span) -> (usize, usize) {
        let line = self.line_starts.partition_point(|&start| start <= span.start).max(1);
        let before = self.text.get(self.line_starts[line - 1]..span.start).unwrap_or_default();
        (line, 1 + before.chars().count())
    }
}

impl Findings {
    /// Of a configuration that a relay will run with.
    pub(super) fn to_run() -> Self {
        Self { is_to_run: true, ..Self::default() }
    }

    /// What `read` returns, and the mistakes that it notes, which are noted nowhere else.
    pub(super) fn apart<T>(&self, read: impl FnOnce() -> T) -> (T, Vec<Problem>) {
        let before = self.errors.borrow().len();
        let found = read();
        (found, self.errors.borrow_mut().split_off(before))
    }

    fn note_key(&self, table: &str, key: &str) {
        let mut noted = self.noted.borrow_mut();
        noted.clear();
        if !table.is_empty() {
            noted.push_str(table);
            noted.push('.');
        }
        noted.push_str(key);
        let mut known = self.known_keys.borrow_mut();
        if !known.contains(noted.as_str()) {
            known.insert(noted.clone());
        }
    }
}

impl KeyPath {
    fn key(&self, key: &str) -> Self {
        Self { shown: join(&self.shown, &quoted(key)), known: join(&self.known, key) }
    }

    fn name(&self, name: &str) -> Self {
        Self { shown: join(&self.shown, &quoted(name)), known: join(&self.known, "NAME") }
    }

    fn index(&self, index: usize) -> Self {
        Self { shown: format!("{}[{index}]", self.shown), known: self.known.clone() }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A key as TOML wants it written.
fn quoted(key: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !key.is_empty() && key.bytes().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

/// The known word that `word` was probably meant to be.
pub(super) fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let allowed = word.chars().count().div_ceil(3);
    let (distance, best) = known.iter().map(|k| (strsim::levenshtein(word, k), *k)).min()?;
    (distance <= allowed).then_some(best)
}
