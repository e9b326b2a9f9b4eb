//! Who asks for a bucket, and where it is: what variables and profile files say of it.

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{Certificate, ClientOptions};

use super::profile::{Profile, ProfileKeys};
use crate::limits::STORE_AUTHORITIES_BYTES_MAX;

type Failure = Box<dyn Error + Send + Sync>;

/// What variables say of it, and what they leave to a profile file: variables that say who asks go before one.
pub(super) fn from_environment(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<AmazonS3Builder, Failure> {
    let mut options = ClientOptions::new();
    if let Some(path) = variable("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
        for authority in authorities(path.as_ref())? {
            options = options.with_root_certificate(authority);
        }
    }
    let mut builder = AmazonS3Builder::new().with_client_options(options);
    // As the library's own, which takes no options.
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
            continue;
        };
        let key = name.starts_with("AWS_").then(|| name.to_ascii_lowercase());
        if let Some(Ok(key)) = key.map(|key| key.parse()) {
            builder = builder.with_config(key, value);
        }
    }
    match Profile::of_environment(variable) {
        Some(profile) => with_profile(builder, profile),
        None => Ok(builder),
    }
}

fn with_profile(builder: AmazonS3Builder, profile: Profile) -> Result<AmazonS3Builder, Failure> {
    use AmazonS3ConfigKey as Key;
    let is_said = |keys: &[Key]| {
        let mut keys = keys.iter();
        keys.any(|key| builder.get_config_value(key).is_some())
    };
    let is_known = is_said(&[
        Key::AccessKeyId,
        Key::SecretAccessKey,
        Key::WebIdentityTokenFile,
    ]) || is_said(&[
        Key::ContainerCredentialsRelativeUri,
        Key::ContainerCredentialsFullUri,
    ]);
    let has_region = is_said(&[Key::Region, Key::DefaultRegion]);
    let has_endpoint = is_said(&[Key::Endpoint, Key::S3Endpoint]);
    if is_known && has_region && has_endpoint {
        return Ok(builder);
    }
    let taken = profile.read()?;
    let mut builder = builder;
    if let Some(region) = taken.region.filter(|_| !has_region) {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = taken.endpoint.filter(|_| !has_endpoint) {
        builder = builder.with_endpoint(endpoint);
    }
    if is_known {
        return Ok(builder);
    }
    if let Some(keys) = taken.credential {
        return Ok(builder.with_credentials(Arc::new(ProfileKeys::new(profile, keys))));
    }
    if let Some((role, file)) = taken.web_identity {
        let builder = builder.with_config(Key::RoleArn, role);
        return Ok(builder.with_config(Key::WebIdentityTokenFile, file));
    }
    Ok(builder)
}

/// The authorities that certificates are checked with besides those of the system.
fn authorities(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let failed =
        |why: Failure| -> Failure { format!("AWS_CA_BUNDLE is {}: {why}", path.display()).into() };
    let mut pem = Vec::new();
    let file = File::open(path).map_err(|e| failed(e.into()))?;
    let read = file
        .take(STORE_AUTHORITIES_BYTES_MAX + 1)
        .read_to_end(&mut pem);
    if read.map_err(|e| failed(e.into()))? as u64 > STORE_AUTHORITIES_BYTES_MAX {
        let why = format!("it has more than {STORE_AUTHORITIES_BYTES_MAX} bytes");
        return Err(failed(why.into()));
    }
    let authorities = Certificate::from_pem_bundle(&pem).map_err(|e| failed(e.into()))?;
    match authorities.is_empty() {
        true => Err(failed("it has no certificate".into())),
        false => Ok(authorities),
    }
}
