//! Looks up what a resource refers to. Reads from the API server.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::{Api, Client};
use plumbline_crds::Resource;
use plumbline_crds::artifact::hex;
use plumbline_crds::conditions::ConditionType;
use plumbline_crds::status::Status;
use sha2::{Digest, Sha256};

use crate::cluster::context::Context;
use crate::cluster::dependents::{Id, Referent};
use crate::cluster::kinds;
use crate::cluster::objects::{Input, fetches};
use crate::cluster::settings::Settings;
use crate::cluster::snapshot::ResolvedInputs;
use crate::inputs::{self, From, Wanted};
use crate::location::Location;

/// Everything that a resource refers to, the claim of its output included.
pub(crate) fn referents(resource: &Resource, output: Option<&Location>) -> BTreeSet<Referent> {
    let claim = |location: &Location| location.claim().map(|claim| Referent::Claim(claim.to_owned()));
    let named = inputs::wanted(&resource.spec).into_iter().filter_map(|wanted| match wanted.from {
        From::Resource { kind, name } => Some(Referent::Resource(kind, name)),
        From::ConfigMap { name, .. } => Some(Referent::ConfigMap(name)),
        From::Uri(uri) => Location::of_input(&uri).ok().as_ref().and_then(claim),
    });
    named.chain(output.and_then(claim)).collect()
}

/// Looks up what a resource is made from, and the claims that it reads and writes. Those of the artifacts of others are noted in
/// the index before they are looked for, as what the resource names itself is.
pub(super) async fn inputs(
    context: &Context,
    id: &Id,
    resource: &Resource,
    output: &Location,
) -> Result<ResolvedInputs, kube::Error> {
    let Context { client, dependents, .. } = context;
    let mut found = ResolvedInputs::default();
    for wanted in inputs::wanted(&resource.spec) {
        input(client, &id.namespace, wanted, &mut found).await?;
    }
    let locations = found.inputs.iter().map(|i| &i.location).chain([output]);
    let claims: BTreeSet<String> = locations.filter_map(Location::claim).map(str::to_owned).collect();
    dependents.add(id, claims.iter().cloned().map(Referent::Claim));
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &id.namespace);
    for claim in claims {
        if !is_there(&api, &claim).await? {
            found.missing.push(format!("PersistentVolumeClaim/{claim}"));
        }
    }
    Ok(found)
}

/// The cache that a run uses: that of the installation where the run fetches something and its namespace has the claim.
pub(super) async fn cache<'a>(
    client: &Client,
    namespace: &str,
    settings: &'a Settings,
    inputs: &[Input],
) -> Result<Option<&'a Location>, kube::Error> {
    let Some(location) = settings.input_cache.as_ref().filter(|_| fetches(inputs)) else { return Ok(None) };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    Ok(is_there(&api, location.claim().unwrap_or_default()).await?.then_some(location))
}

async fn is_there(api: &Api<PersistentVolumeClaim>, claim: &str) -> Result<bool, kube::Error> {
    let found = api.get_metadata_opt(claim).await?;
    Ok(found.is_some_and(|claim| claim.metadata.deletion_timestamp.is_none()))
}

async fn input(
    client: &Client,
    namespace: &str,
    wanted: Wanted,
    found: &mut ResolvedInputs,
) -> Result<(), kube::Error> {
    let Wanted { role, from, .. } = wanted;
    let (name, location, digest) = match from {
        // Validation refused everything that has no location.
        From::Uri(uri) => match Location::of_input(&uri) {
            Ok(location) => (uri, location, String::new()),
            Err(_) => return Ok(()),
        },
        From::ConfigMap { name, key } => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            let Some(map) = api.get_opt(&name).await? else {
                found.missing.push(format!("ConfigMap/{name}"));
                return Ok(());
            };
            let Some(text) = map.data.unwrap_or_default().remove(&key) else {
                found.missing.push(format!("ConfigMap/{name} key {key}"));
                return Ok(());
            };
            (format!("{name}/{key}"), Location::ConfigMap { name, key }, digest_of(&text))
        }
        From::Resource { kind, name } => {
            let Some(object) = kinds::api(client, kind, namespace).get_opt(&name).await? else {
                found.missing.push(format!("{kind}/{name}"));
                return Ok(());
            };
            let status: Option<Status> =
                object.data.get("status").cloned().and_then(|s| serde_json::from_value(s).ok());
            // A status of an earlier spec says nothing about what the resource will be.
            let current = |s: &Status| Some(s.observed_generation) == object.metadata.generation;
            let artifact = status.filter(|s| s.is_true(ConditionType::Ready) && current(s)).and_then(|s| s.artifact);
            let location = artifact.as_ref().and_then(|a| Location::of_input(&a.uri).ok());
            let (Some(artifact), Some(location)) = (artifact, location) else {
                found.unready.push(format!("{kind}/{name}"));
                return Ok(());
            };
            (name, location, artifact.digest)
        }
    };
    found.inputs.push(Input { role, name, location, digest });
    Ok(())
}

/// The digest that the trainer finds of a mounted key.
fn digest_of(text: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_config_map_has_the_digest_of_the_file_that_it_is_mounted_as() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "{\"prompt\": \"ä\"}\n"] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(digest_of(text), plumbline_crds::artifact::digest_path(file.path()).unwrap());
        }
    }
}
