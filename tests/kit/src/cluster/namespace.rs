//! A namespace for one test and the service accounts in it. Talks to the API server.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Pod, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

use super::Cluster;
use super::audit::{AuditLine, Requests};
use super::certificates::Credentials;
use super::control_plane::client_of;
use super::pods::FakeNode;
use super::wait::until;

/// A namespace. It is not deleted before the cluster ends: for a deletion, the namespace controller lists every kind in
/// it, some of them many times, and with hundreds of namespaces this took more than half of the API server's time.
#[derive(Debug)]
pub struct Namespace {
    cluster: &'static Cluster,
    name: String,
}

impl Namespace {
    /// Creates the namespace, and waits for the service account that pods need.
    pub(super) async fn create(cluster: &'static Cluster, prefix: &str) -> Self {
        let client = cluster.client().await;
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        let object = NamespaceObject { metadata, ..NamespaceObject::default() };
        let made = Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let namespace = Self { cluster, name: made.name_any() };
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &namespace.name);
        let what = format!("{} has a service account", namespace.name);
        until(&what, async || accounts.get_opt("default").await.unwrap()).await;
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The requests so far about its objects, and those of its service accounts about any object.
    pub fn audit(&self) -> Vec<Arc<AuditLine>> {
        self.cluster.audit(&self.name)
    }

    /// Number of such requests that the API server has completed.
    pub fn count(&self, requests: Requests<'_>) -> usize {
        let within = |line: &&Arc<AuditLine>| line.object_ref.namespace == self.name && requests.matches(line);
        self.audit().iter().filter(within).count()
    }

    /// Access to its resources of a kind as an administrator.
    pub async fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.cluster.client().await, &self.name)
    }

    /// The simulated node of its pods.
    pub async fn node(&self) -> FakeNode {
        FakeNode::new(self.api().await)
    }

    /// A client with the permissions of a service account.
    pub async fn client_for(&self, service_account: &str) -> Client {
        client_of(&self.kubeconfig_for(service_account).await).await
    }

    /// A kubeconfig with the permissions of a service account.
    pub async fn kubeconfig_for(&self, service_account: &str) -> PathBuf {
        let token = self.token(service_account, None).await;
        let user = format!("{}.{service_account}", self.name);
        self.cluster.server.write_kubeconfig(&user, &Credentials::Token(&token))
    }

    /// A service account's token for an audience; by default for the API server.
    pub async fn token(&self, service_account: &str, audience: Option<&str>) -> String {
        self.request_token(service_account, audience, None).await
    }

    /// The token that a kubelet would mount into a pod: of the pod's service account, and invalid once the pod is
    /// deleted.
    pub async fn pod_token(&self, pod: &Pod, audience: &str) -> String {
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name_any()),
            uid: pod.uid(),
        };
        let spec = pod.spec.as_ref().unwrap();
        let account = spec.service_account_name.as_deref().unwrap_or("default");
        self.request_token(account, Some(audience), Some(bound)).await
    }

    async fn request_token(&self, account: &str, audience: Option<&str>, to: Option<BoundObjectReference>) -> String {
        let accounts: Api<ServiceAccount> = self.api().await;
        let audiences = audience.map(|a| vec![a.to_owned()]).unwrap_or_default();
        let spec = TokenRequestSpec { audiences, bound_object_ref: to, expiration_seconds: Some(3600) };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token
    }
}
