//! What the files of a generated volume are: pure, from the objects as they are now.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use crate::config::{NodeFacts, Objects, env};
use crate::pod::spec;
use crate::volumes::bundles;

/// The mode of files whose volume says nothing.
const DEFAULT_MODE: u32 = 0o644;
/// The mode of tokens and trusted certificates in a Pod that names its users or groups.
const PRIVATE_MODE: u32 = 0o600;
/// Requested for a token that does not say how long it lives.
pub const DEFAULT_EXPIRATION_SECONDS: i64 = 3600;

/// One file of a generated volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path below the volume.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    /// Its content.
    pub data: Vec<u8>,
    /// Its owner, where that is not root.
    pub owner: Option<u32>,
}

/// A token that a volume wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenSource {
    /// For whom; empty for the API server.
    pub audience: String,
    /// How long it shall live.
    pub expiration_seconds: i64,
}

/// The tokens that were given out.
pub type Tokens = BTreeMap<TokenSource, String>;

fn token_source(projection: &ServiceAccountTokenProjection) -> TokenSource {
    TokenSource {
        audience: projection.audience.clone().unwrap_or_default(),
        expiration_seconds: projection.expiration_seconds.unwrap_or(DEFAULT_EXPIRATION_SECONDS),
    }
}

/// The tokens that the Pod's volumes want.
pub fn token_sources(pod: &Pod) -> Vec<TokenSource> {
    let volumes = spec::spec(pod).volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let sources = volumes.flat_map(|projected| projected.sources.iter().flatten());
    let mut wanted: Vec<_> =
        sources.filter_map(|source| source.service_account_token.as_ref()).map(token_source).collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

/// What the parts of a payload are made from.
struct Makings<'a> {
    pod: &'a Pod,
    objects: &'a Objects,
    tokens: &'a Tokens,
    node: &'a NodeFacts,
}

/// The files of a volume; `None` for a volume that is not made of generated files.
///
/// # Errors
/// Something that the volume refers to is not there; the words are upstream's.
pub fn payload(
    pod: &Pod,
    volume: &Volume,
    objects: &Objects,
    tokens: &Tokens,
    node: &NodeFacts,
) -> Result<Option<Vec<File>>, String> {
    let from = Makings { pod, objects, tokens, node };
    if let Some(source) = &volume.config_map {
        let mode = mode(source.default_mode);
        let optional = source.optional == Some(true);
        return from.config_map(&source.name, source.items.as_deref(), optional, mode).map(Some);
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or("");
        let optional = source.optional == Some(true);
        return from.secret(name, source.items.as_deref(), optional, mode(source.default_mode)).map(Some);
    }
    if let Some(source) = &volume.downward_api {
        return from.downward(source.items.as_deref().unwrap_or(&[]), mode(source.default_mode)).map(Some);
    }
    let Some(projected) = &volume.projected else { return Ok(None) };
    let mode = mode(projected.default_mode);
    let mut files = Vec::new();
    for source in projected.sources.iter().flatten() {
        files.extend(from.projection(source, mode)?);
    }
    Ok(Some(files))
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE)
}

impl Makings<'_> {
    fn projection(&self, source: &VolumeProjection, mode: u32) -> Result<Vec<File>, String> {
        if let Some(source) = &source.config_map {
            return self.config_map(&source.name, source.items.as_deref(), source.optional == Some(true), mode);
        }
        if let Some(source) = &source.secret {
            return self.secret(&source.name, source.items.as_deref(), source.optional == Some(true), mode);
        }
        if let Some(source) = &source.downward_api {
            return self.downward(source.items.as_deref().unwrap_or(&[]), mode);
        }
        if let Some(projection) = &source.service_account_token {
            return self.token(projection, mode).map(|file| vec![file]);
        }
        if let Some(projection) = &source.cluster_trust_bundle {
            let data = bundles::certificates(projection, self.objects.bundles.as_deref())?;
            return Ok(vec![self.private(&projection.path, mode, data)]);
        }
        Err("this node cannot project pod certificates".to_owned())
    }

    fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
        mode: u32,
    ) -> Result<Vec<File>, String> {
        let Some(map) = self.objects.config_maps.get(name) else {
            return if optional { Ok(vec![]) } else { Err(format!("configmap {name:?} not found")) };
        };
        let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
        let data = text.chain(binary).collect();
        select(data, items, optional, mode)
            .map_err(|key| format!("configmap references non-existent config key: {key}"))
    }

    fn secret(&self, name: &str, items: Option<&[KeyToPath]>, optional: bool, mode: u32) -> Result<Vec<File>, String> {
        let Some(secret) = self.objects.secrets.get(name) else {
            return if optional { Ok(vec![]) } else { Err(format!("secret {name:?} not found")) };
        };
        let data: BTreeMap<&str, &[u8]> =
            secret.data.iter().flatten().map(|(key, ByteString(value))| (key.as_str(), value.as_slice())).collect();
        select(data, items, optional, mode).map_err(|key| format!("references non-existent secret key: {key}"))
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], default_mode: u32) -> Result<Vec<File>, String> {
        let mut files = Vec::with_capacity(items.len());
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => env::field_value(self.pod, &[], self.node, field),
                (None, Some(resource)) => env::resource_value(self.pod, "", resource, self.node),
                (None, None) => Ok(String::new()),
            };
            let data = text.map_err(|error| error.0)?.into_bytes();
            let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
            files.push(File { path: item.path.clone(), mode, data, owner: None });
        }
        Ok(files)
    }

    fn token(&self, projection: &ServiceAccountTokenProjection, mode: u32) -> Result<File, String> {
        let source = token_source(projection);
        let Some(token) = self.tokens.get(&source) else {
            return Err("failed to fetch token: the API server has given none".to_owned());
        };
        Ok(self.private(&projection.path, mode, token.clone().into_bytes()))
    }

    /// A file that is the user's own, where the Pod names its users or groups.
    fn private(&self, path: &str, mode: u32, data: Vec<u8>) -> File {
        let owner = common_user(self.pod);
        let grouped = spec::spec(self.pod).security_context.as_ref().is_some_and(|context| context.fs_group.is_some());
        let mode = if owner.is_some() || grouped { PRIVATE_MODE } else { mode };
        File { path: path.to_owned(), mode, data, owner }
    }
}

/// Picks the files of a map's entries; the first missing key where one is.
fn select(
    data: BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    default_mode: u32,
) -> Result<Vec<File>, String> {
    let file =
        |path: &str, mode: u32, data: &[u8]| File { path: path.to_owned(), mode, data: data.to_owned(), owner: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, value)| file(key, default_mode, value)).collect());
    };
    let mut files = Vec::with_capacity(items.len());
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => {
                let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
                files.push(file(&item.path, mode, value));
            }
            None if optional => {}
            None => return Err(item.key.clone()),
        }
    }
    Ok(files)
}

/// The user that all containers of the Pod run as, where the spec says so and it is the same.
fn common_user(pod: &Pod) -> Option<u32> {
    let context = spec::spec(pod).security_context.as_ref();
    let mut users = spec::containers(pod).into_iter().map(|spec| {
        let own = spec.container.security_context.as_ref().and_then(|own| own.run_as_user);
        own.or(context.and_then(|context| context.run_as_user))
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first).and_then(|user| u32::try_from(user).ok())
}
