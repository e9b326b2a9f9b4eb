//! The configuration file: TOML to a layer, with unknown keys refused by name.
use super::error::ConfigError;
use super::key::{Key, Layer, hint};
use crate::limits::CONFIG_FILE_MAX_BYTES;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Reads `path`. Values stay text: they are checked together with those of other sources.
pub(super) fn read(path: &Path, keys: &[Key]) -> Result<Layer, ConfigError> {
    let text = read_bounded(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let start = e.span().map_or(0, |span| span.start).min(text.len());
        let before = text.as_bytes().iter().take(start);
        ConfigError::Syntax {
            path: path.to_owned(),
            line: 1 + before.filter(|byte| **byte == b'\n').count(),
            why: e.message().trim().replace('\n', "; "),
        }
    })?;
    let mut layer = Layer::new();
    for (name, value) in table {
        let Some(key) = keys.iter().find(|key| key.name == name) else {
            let hint = hint(&name, keys);
            return Err(ConfigError::UnknownKey {
                key: name,
                path: path.to_owned(),
                hint,
            });
        };
        // An empty array is the same as none: a layer holds no empty lists.
        let values = values_of(key, value).map_err(|allowed| ConfigError::Shape {
            key: name.clone(),
            path: path.to_owned(),
            allowed,
        })?;
        if !values.is_empty() {
            layer.insert(name, values);
        }
    }
    Ok(layer)
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(CONFIG_FILE_MAX_BYTES + 1);
    if file.read_to_string(&mut text)? as u64 > CONFIG_FILE_MAX_BYTES {
        let message = format!("it has more than {CONFIG_FILE_MAX_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

fn values_of(key: &Key, value: toml::Value) -> Result<Vec<OsString>, &'static str> {
    match value {
        toml::Value::Array(items) if key.is_list => items
            .into_iter()
            .map(|item| scalar(item).ok_or("an array of strings"))
            .collect(),
        other => {
            let allowed = if key.is_list {
                "a string or an array of strings"
            } else {
                "one value"
            };
            scalar(other).map(|value| vec![value]).ok_or(allowed)
        }
    }
}

fn scalar(value: toml::Value) -> Option<OsString> {
    match value {
        toml::Value::String(text) => Some(text.into()),
        toml::Value::Integer(number) => Some(number.to_string().into()),
        toml::Value::Float(number) => Some(number.to_string().into()),
        toml::Value::Boolean(yes) => Some(yes.to_string().into()),
        toml::Value::Datetime(time) => Some(time.to_string().into()),
        toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_never_ends_is_refused() {
        let error = read_bounded(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
