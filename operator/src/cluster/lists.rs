//! Lists that tenants can fill: anybody who may make Jobs, pods or events may label them like ours. Talks to the API server.

use std::fmt::Debug;

use kube::Api;
use kube::api::ListParams;
use serde::de::DeserializeOwned;

/// Objects at a time of a list that a tenant can fill: each may have 1.5 MB.
const PAGE: u32 = 25;
/// Objects of such a list that are looked at. The largest run has 1,024 pods.
const MOST: usize = 4096;

/// What `keep` leaves of the objects of a list, which are read a few at a time.
pub(super) async fn listed<K, T>(
    api: &Api<K>,
    params: ListParams,
    keep: impl Fn(K) -> Option<T>,
) -> Result<Vec<T>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let (mut params, mut kept, mut looked_at) = (params.limit(PAGE), Vec::new(), 0);
    loop {
        let page = api.list(&params).await?;
        looked_at += page.items.len();
        kept.extend(page.items.into_iter().filter_map(&keep));
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(kept);
        }
        if looked_at >= MOST {
            tracing::warn!(
                selector = params.label_selector,
                "more than {MOST} objects carry these labels; the others are left out"
            );
            return Ok(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::mock;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[tokio::test]
    async fn a_list_without_end_is_read_to_a_bound_and_only_what_is_wanted_is_kept() {
        let client = mock::client(|_| {
            let pods: Vec<_> = (0..PAGE).map(|i| json!({"metadata": {"name": i.to_string()}})).collect();
            Some(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"continue": "more"}, "items": pods}))
        });
        let pods: Api<Pod> = Api::namespaced(client, "n");
        let first = |pod: Pod| pod.metadata.name.filter(|name| name == "0");
        let kept = listed(&pods, ListParams::default(), first).await.unwrap();
        assert_eq!(kept.len(), MOST.div_ceil(PAGE as usize));
    }
}
