//! Flags over environment over file: which of them gives a key its value.
use super::error::{ConfigError, Origin};
use super::key::{Key, Layer, env_name, hint};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// All sources of `serve`'s configuration.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) flags: Layer,
    pub(super) env: Layer,
    pub(super) file: Layer,
    /// Where `file` was read; empty when there was none.
    pub(super) file_path: PathBuf,
}

impl Layers {
    /// The values of `key` from the highest source that has it, and which that is.
    pub(super) fn find(&self, key: &'static str) -> Option<(&[OsString], Origin)> {
        if let Some(values) = self.flags.get(key) {
            return Some((values, Origin::flag(key)));
        }
        if let Some(values) = self.env.get(key) {
            return Some((values, Origin::env(key)));
        }
        let values = self.file.get(key)?;
        Some((values, Origin::File(self.file_path.clone())))
    }

    /// The value of `key` made by `parse`, or `None` when nobody gives it. `parse` fails with
    /// what is allowed.
    pub(super) fn one<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        Ok(self.list(key, parse)?.and_then(|mut values| values.pop()))
    }

    /// All values of `key` made by `parse`, or `None` when nobody gives it.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some((values, origin)) = self.find(key) else {
            return Ok(None);
        };
        let parsed = values.iter().map(|value| {
            let text = value.to_str().ok_or_else(|| "valid UTF-8".to_string());
            text.and_then(&parse)
                .map_err(|allowed| ConfigError::value(key, value, origin.clone(), allowed))
        });
        parsed.collect::<Result<Vec<T>, ConfigError>>().map(Some)
    }
}

/// The layer of the environment: `TARPON_` and the key in upper case.
pub(super) fn env_layer(keys: &[Key], env: &dyn Fn(&str) -> Option<OsString>) -> Layer {
    let value_of = |key: &Key| {
        let value = env(&env_name(&key.name)).filter(|value| !value.is_empty())?;
        let values = if key.is_list {
            split_list(&value)
        } else {
            vec![value]
        };
        (!values.is_empty()).then(|| (key.name.clone(), values))
    };
    keys.iter().filter_map(value_of).collect()
}

/// One line for each variable among `names` that looks like a setting and is none: neither that of
/// a key nor among `others`. It is no error: others may set such variables too, as Kubernetes does
/// for a service of that name.
pub(super) fn unknown_variables<'n>(
    names: impl IntoIterator<Item = &'n str>,
    keys: &[Key],
    others: &[String],
) -> Vec<String> {
    let is_unknown = |name: &&str| {
        let is_key = keys.iter().any(|key| env_name(&key.name) == *name);
        name.starts_with("TARPON_") && !is_key && !others.iter().any(|other| other == name)
    };
    let line = |name: &str| {
        let key = name.trim_start_matches("TARPON_");
        let hint = hint(key, keys);
        format!("the environment variable {name} is no setting and is ignored; {hint}")
    };
    names.into_iter().filter(is_unknown).map(line).collect()
}

/// Items separated by spaces or commas. A value that is not UTF-8 stays whole: its parser refuses
/// it and shows it.
fn split_list(value: &OsStr) -> Vec<OsString> {
    let Some(text) = value.to_str() else {
        return vec![value.to_owned()];
    };
    let separator = |c: char| c == ',' || c.is_whitespace();
    text.split(separator)
        .filter(|item| !item.is_empty())
        .map(OsString::from)
        .collect()
}
