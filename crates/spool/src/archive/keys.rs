//! The keys of an object in JSON that people edit: errors name the key and say what to write, and a key that
//! nobody asked for is one.

use std::{fmt::Display, str::FromStr};

use serde_json::{Map, Value};

/// What is wrong in a file. `key` is empty where it is the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}{}{message}", if key.is_empty() { "" } else { ": " })]
pub(super) struct EntryError {
    pub(super) key: String,
    pub(super) message: String,
}

/// A wrong value, as far as it helps.
pub(super) fn shown(value: &Value) -> String {
    const ENOUGH: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Text that says a `T`.
pub(super) fn text<T: FromStr<Err: Display>>(value: &Value) -> Result<T, String> {
    let text = value.as_str().ok_or_else(|| format!("is {}; write text in quotes", shown(value)))?;
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

/// The keys of one object, and which of them were asked for.
pub(super) struct Keys<'a> {
    path: &'static str,
    map: &'a Map<String, Value>,
    asked: Vec<&'static str>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(path: &'static str, value: &'a Value) -> Result<Self, EntryError> {
        let message = || format!("is {}; write an object in braces", shown(value));
        let map = value.as_object().ok_or_else(|| EntryError { key: path.into(), message: message() })?;
        Ok(Self { path, map, asked: Vec::new() })
    }

    pub(super) fn error(&self, key: &str, message: String) -> EntryError {
        let dot = if self.path.is_empty() { "" } else { "." };
        EntryError { key: format!("{}{dot}{key}", self.path), message }
    }

    pub(super) fn take(&mut self, key: &'static str) -> Result<&'a Value, EntryError> {
        self.asked.push(key);
        self.map.get(key).ok_or_else(|| self.error(key, "missing".into()))
    }

    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Result<T, EntryError> {
        let value = self.take(key)?;
        read(value).map_err(|message| self.error(key, message))
    }

    pub(super) fn parse<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Result<T, EntryError> {
        self.read(key, text)
    }

    pub(super) fn parse_or_null<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
    ) -> Result<Option<T>, EntryError> {
        self.read(key, |value| if value.is_null() { Ok(None) } else { text(value).map(Some) })
    }

    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Result<Option<T>, EntryError> {
        if self.map.contains_key(key) {
            return self.read(key, read).map(Some);
        }
        self.asked.push(key);
        Ok(None)
    }

    pub(super) fn one_of<T: Copy, const N: usize>(
        &mut self,
        key: &'static str,
        choices: [T; N],
        name: impl Fn(T) -> &'static str,
    ) -> Result<T, EntryError> {
        self.read(key, |value| {
            let chosen = choices.into_iter().find(|choice| value.as_str() == Some(name(*choice)));
            chosen.ok_or_else(|| {
                let names = choices.map(|choice| format!("{:?}", name(choice)));
                format!("is {}; write {}", shown(value), names.join(" or "))
            })
        })
    }

    /// No key may be left that nobody asked for.
    pub(super) fn end(&self) -> Result<(), EntryError> {
        match self.map.keys().find(|key| !self.asked.contains(&key.as_str())) {
            Some(key) => {
                Err(self.error(key, format!("unknown key; the keys here are {}", self.asked.join(", "))))
            }
            None => Ok(()),
        }
    }
}
