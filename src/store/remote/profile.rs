//! Profile files, in which the tools of such stores keep credentials, a region and an endpoint for each of several
//! accounts: `~/.aws/credentials` and `~/.aws/config`
//! (<https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>).
//!
//! Taken are keys, and what names a web identity. Profiles that have other programs run, or roles assumed through other
//! profiles, are refused by name: what is run for a server is said in its own settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use crate::limits::{PROFILE_FILE_BYTES_MAX, PROFILE_READ_AGAIN_MS};

/// What a profile says, by its name in the files. Later in the files wins, and credentials over the rest.
type Settings = BTreeMap<String, Zeroizing<String>>;

/// A profile, and where it stands.
#[derive(Debug, Clone)]
pub struct Profile {
    name: String,
    /// Whether somebody has asked for it by name.
    is_named: bool,
    credentials: PathBuf,
    config: PathBuf,
}

/// Why a profile is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("cannot read {}: {source}", path.display())]
    Unread { path: PathBuf, source: io::Error },
    #[error("{} has more than {PROFILE_FILE_BYTES_MAX} bytes", path.display())]
    TooLong { path: PathBuf },
    #[error("AWS_PROFILE is {name:?}, and no profile of that name stands in {} or {}", credentials.display(), config.display())]
    Unknown {
        name: String,
        credentials: PathBuf,
        config: PathBuf,
    },
    #[error(
        "profile {name:?} says {key}, which is not followed here: give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
         or a web identity, or a profile with keys"
    )]
    Beyond { name: String, key: &'static str },
    #[error(
        "profile {name:?} has one of aws_access_key_id and aws_secret_access_key, and not the other"
    )]
    Half { name: String },
}

/// What is taken of a profile.
#[derive(Debug, Default)]
pub struct Taken {
    /// Its keys.
    pub credential: Option<AwsCredential>,
    /// The role and the file of a web identity.
    pub web_identity: Option<(String, String)>,
    /// Where the bucket is.
    pub region: Option<String>,
    /// Who is asked.
    pub endpoint: Option<String>,
}

impl Profile {
    /// The one that the environment means, if there can be one.
    pub fn of_environment(variable: impl Fn(&str) -> Option<OsString>) -> Option<Profile> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = given("HOME").map(PathBuf::from);
        let file = |name: &str, below: &str| {
            let path = given(name).map(PathBuf::from);
            path.or_else(|| Some(home.as_ref()?.join(".aws").join(below)))
        };
        let name = given("AWS_PROFILE").and_then(|name| name.into_string().ok());
        Some(Profile {
            is_named: name.is_some(),
            name: name.unwrap_or_else(|| "default".to_owned()),
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials")?,
            config: file("AWS_CONFIG_FILE", "config")?,
        })
    }

    /// Reads it; it may have changed since it was read last. It waits for the disk.
    ///
    /// # Errors
    /// See [`ProfileError`].
    pub fn read(&self) -> Result<Taken, ProfileError> {
        let mut settings = Settings::new();
        let header = match &*self.name {
            "default" => "default".to_owned(),
            name => format!("profile {name}"),
        };
        let mut is_there = false;
        for (path, header) in [(&self.config, &header), (&self.credentials, &self.name)] {
            let Some(text) = read_file(path)? else {
                continue;
            };
            is_there |= add(&text, header, &mut settings);
        }
        match is_there || !self.is_named {
            true => self.taken(&settings),
            false => Err(ProfileError::Unknown {
                name: self.name.clone(),
                credentials: self.credentials.clone(),
                config: self.config.clone(),
            }),
        }
    }

    fn taken(&self, settings: &Settings) -> Result<Taken, ProfileError> {
        let one = |key: &str| settings.get(key).map(|value| String::clone(value));
        let name = || self.name.clone();
        let credential = match (one("aws_access_key_id"), one("aws_secret_access_key")) {
            (Some(key_id), Some(secret_key)) => Some(AwsCredential {
                key_id,
                secret_key,
                token: one("aws_session_token"),
            }),
            (None, None) => None,
            _ => return Err(ProfileError::Half { name: name() }),
        };
        let web_identity = one("role_arn").zip(one("web_identity_token_file"));
        let beyond = [
            "credential_process",
            "sso_session",
            "sso_start_url",
            "role_arn",
        ];
        if credential.is_none() && web_identity.is_none() {
            let beyond = beyond.into_iter().find(|key| settings.contains_key(*key));
            if let Some(key) = beyond {
                return Err(ProfileError::Beyond { name: name(), key });
            }
        }
        Ok(Taken {
            credential,
            web_identity,
            region: one("region"),
            endpoint: one("endpoint_url"),
        })
    }
}

fn read_file(path: &Path) -> Result<Option<Zeroizing<String>>, ProfileError> {
    let unread = |source| ProfileError::Unread {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        file => file.map_err(unread)?,
    };
    let mut text = Zeroizing::new(String::new());
    let read = file
        .take(PROFILE_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text);
    match read.map_err(unread)? as u64 <= PROFILE_FILE_BYTES_MAX {
        true => Ok(Some(text)),
        false => Err(ProfileError::TooLong {
            path: path.to_owned(),
        }),
    }
}

/// Adds what stands below `[header]`; whether there is such a header. What is indented belongs to the line above it, and
/// is nothing that is taken.
fn add(text: &str, header: &str, settings: &mut Settings) -> bool {
    let (mut is_it, mut is_there) = (false, false);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.split(']').next().unwrap_or(rest);
            is_it = name.split_whitespace().eq(header.split_whitespace());
            is_there |= is_it;
        } else if is_it
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            // A comment behind a value begins with a space.
            let marks = [" #", " ;", "\t#", "\t;"];
            let value = marks.iter().fold(value, |value, mark| {
                value.split(mark).next().unwrap_or(value)
            });
            settings.insert(
                key.trim().to_ascii_lowercase(),
                value.trim().to_owned().into(),
            );
        }
    }
    is_there
}

/// The keys of a profile, read again now and then: whoever changes them does not start servers anew for that.
#[derive(Debug)]
pub struct ProfileKeys {
    profile: Profile,
    last: Mutex<(Instant, Arc<AwsCredential>)>,
}

impl ProfileKeys {
    /// Those that were just read.
    #[must_use]
    pub fn new(profile: Profile, first: AwsCredential) -> ProfileKeys {
        let last = Mutex::new((Instant::now(), Arc::new(first)));
        ProfileKeys { profile, last }
    }

    fn known(&self) -> (Instant, Arc<AwsCredential>) {
        let last = self
            .last
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        (last.0, last.1.clone())
    }

    fn note(&self, keys: &Arc<AwsCredential>) {
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *last = (Instant::now(), keys.clone());
    }

    async fn keys(&self) -> Arc<AwsCredential> {
        let (read, known) = self.known();
        if read.elapsed() < Duration::from_millis(PROFILE_READ_AGAIN_MS) {
            return known;
        }
        let profile = self.profile.clone();
        let taken = spawn_blocking(move || profile.read()).await;
        let keys = match taken {
            Ok(Ok(Taken {
                credential: Some(keys),
                ..
            })) => Arc::new(keys),
            // It is being written perhaps: the keys are as good as they were.
            Ok(Err(why)) => {
                tracing::warn!(%why, "the keys of the object store are not read again");
                known
            }
            _ => known,
        };
        self.note(&keys);
        keys
    }
}

/// As the library's macro would write it.
impl CredentialProvider for ProfileKeys {
    type Credential = AwsCredential;

    fn get_credential<'life0, 'async_trait>(
        &'life0 self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move { Ok(self.keys().await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: Option<&str>, credentials: &str, config: &str) -> Result<Taken, ProfileError> {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".aws");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("credentials"), credentials).unwrap();
        std::fs::write(dir.join("config"), config).unwrap();
        let variable = |variable: &str| match variable {
            "HOME" => Some(home.path().into()),
            "AWS_PROFILE" => name.map(OsString::from),
            _ => None,
        };
        Profile::of_environment(variable).unwrap().read()
    }

    #[test]
    fn a_profile_is_what_both_files_say_of_it() {
        let credentials = "\
# of the farm
[default]
aws_access_key_id = AK1
aws_secret_access_key=s/+=1 # the old one
[ farm ]
AWS_ACCESS_KEY_ID=AK2\r
aws_secret_access_key = s#2;x
aws_session_token = t=2
[other]
aws_access_key_id = AK3
";
        let config = "\
[default]
region = r1
s3 =
  endpoint_url = https://nested
[profile farm]
region = r2
endpoint_url = https://e2
aws_access_key_id = of config
[farm]
region = of nobody
";
        let taken = profile(None, credentials, config).unwrap();
        let keys = taken.credential.unwrap();
        let pair = |keys: &AwsCredential| (keys.key_id.clone(), keys.secret_key.clone());
        assert_eq!(pair(&keys), ("AK1".into(), "s/+=1".into()));
        assert_eq!(
            (taken.region.as_deref(), taken.endpoint),
            (Some("r1"), None)
        );
        let taken = profile(Some("farm"), credentials, config).unwrap();
        let keys = taken.credential.unwrap();
        assert_eq!(pair(&keys), ("AK2".into(), "s#2;x".into()));
        assert_eq!(keys.token.as_deref(), Some("t=2"));
        assert_eq!(taken.region.as_deref(), Some("r2"));
        assert_eq!(taken.endpoint.as_deref(), Some("https://e2"));
        let half = profile(Some("other"), credentials, config).unwrap_err();
        assert!(matches!(half, ProfileError::Half { name } if name == "other"));
    }

    #[test]
    fn what_is_not_followed_is_named() {
        let unknown = profile(Some("x"), "", "").unwrap_err();
        assert!(unknown.to_string().contains("\"x\""), "{unknown}");
        assert!(profile(None, "", "").unwrap().credential.is_none());
        for key in ["credential_process", "sso_session", "role_arn"] {
            let config = format!("[default]\n{key} = /bin/x\n");
            let beyond = profile(None, "", &config).unwrap_err().to_string();
            assert!(beyond.contains(key), "{beyond}");
            let keys = "[default]\naws_access_key_id=a\naws_secret_access_key=b\n";
            assert!(profile(None, keys, &config).unwrap().credential.is_some());
        }
        let web = "[default]\nrole_arn = a\nweb_identity_token_file = /t\n";
        let web = profile(None, "", web).unwrap().web_identity;
        assert_eq!(web, Some(("a".into(), "/t".into())));
        let long = "#".repeat(PROFILE_FILE_BYTES_MAX as usize + 1);
        let long = profile(None, &long, "").unwrap_err();
        assert!(matches!(long, ProfileError::TooLong { .. }), "{long}");
    }

    #[test]
    fn a_secret_is_in_no_text() {
        let keys = "[default]\naws_access_key_id=a\naws_secret_access_key=hidden\n";
        let taken = profile(None, keys, "").unwrap();
        assert!(!format!("{taken:?}").contains("hidden"), "{taken:?}");
    }
}
